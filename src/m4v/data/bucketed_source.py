"""Clips of a folder at the sizes of their buckets, batch by batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from m4v.core.seeds import fold_seed
from m4v.core.shapes import VideoShape
from m4v.data.buckets import Bucket, BucketPlan, MediaSize, SmallBuckets
from m4v.data.clip import Clip
from m4v.data.drops import require_usable
from m4v.data.folder_source import FolderSource
from m4v.data.source import UnusableClip

_MAX_REPLACEMENTS = 20


def measure_media(source: FolderSource) -> tuple[list[MediaSize], list[int], list[UnusableClip]]:
    """Read the sizes and lengths of all files from their headers; frames are counted by decoding where it says none.

    Returns:
        Sizes, the number in the source that each belongs to, and the files that cannot be read.
    """
    sizes: list[MediaSize] = []
    numbers: list[int] = []
    drops: list[UnusableClip] = []
    for index, entry in enumerate(source.entries):
        try:
            facts = source.header(index)
        except UnusableClip as drop:
            drops.append(drop)
            continue
        sizes.append(
            MediaSize(
                name=entry.name,
                height=facts.height,
                width=facts.width,
                num_frames=facts.length,
                is_image=entry.is_image,
            )
        )
        numbers.append(index)
    return sizes, numbers, drops


@dataclass(frozen=True)
class BucketedClips:
    """Batches of clips, each a pure function of the step.

    A clip that proves unusable when it is decoded is replaced by another of its bucket, the same one on every rank and
    after every resumption, and reported.

    Attributes:
        source: The files.
        plan: Their buckets; clip numbers are those of `source`.
        seed: Root of the order.
        on_drop: Told about every replaced clip.
    """

    source: FolderSource
    plan: BucketPlan
    seed: int
    on_drop: Callable[[UnusableClip], None] = lambda drop: None

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Bucket, list[Clip]]:
        """Decode one rank's clips of a step.

        Raises:
            UserError: if clip after clip of a bucket is unusable.
        """
        bucket, indices = self.plan.rank_batch(self.seed, step, rank, world)
        return bucket, [self._clip(bucket, int(index)) for index in indices]

    def _clip(self, bucket: Bucket, index: int) -> Clip:
        shape = VideoShape(num_frames=bucket.num_frames, height=bucket.height, width=bucket.width)
        drops: list[UnusableClip] = []
        members: Sequence[int] = self.plan.members[bucket]
        for attempt in range(_MAX_REPLACEMENTS):
            try:
                return self.source.clip_as(index, shape, bucket.num_frames)
            except UnusableClip as drop:
                self.on_drop(drop)
                drops.append(drop)
            index = members[fold_seed(self.seed, "replacement", index, attempt) % len(members)]
        require_usable(0, f"bucket {bucket.name}", drops, "Check the data set with: m4v data check DIR")
        raise AssertionError("require_usable raises")


def plan_buckets(
    source: FolderSource,
    buckets: Sequence[Bucket],
    *,
    images_per_window: int,
    videos_per_window: int,
    small: SmallBuckets = "repeat",
) -> BucketPlan:
    """Measure all files of a source and sort them into buckets; unreadable ones are among the plan's drops.

    Raises:
        UserError: as `BucketPlan.make`.
    """
    sizes, numbers, drops = measure_media(source)
    plan = BucketPlan.make(
        buckets, sizes, images_per_window=images_per_window, videos_per_window=videos_per_window, small=small
    )
    members = {bucket: tuple(numbers[place] for place in places) for bucket, places in plan.members.items()}
    return replace(plan, members=members, drops=(*drops, *plan.drops))
