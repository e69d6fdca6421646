"""Batches of clips that differ in size and length: which bucket a clip goes to, and which batch each step takes."""

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.data.mixing import Mixture
from m4v.data.sampler import indices_for_step, share_of_rank
from m4v.data.source import UnusableClip

SmallBuckets = Literal["repeat", "merge", "refuse"]


@dataclass(frozen=True, kw_only=True, order=True)
class Bucket:
    """Clips of one size and length, batched together.

    Attributes:
        height: Rows of a frame.
        width: Columns of a frame.
        num_frames: Frames of a clip; 1 is for images only, which never share a batch with videos.
        batch_size: Clips per batch, over all ranks.
        repeats: How often each clip comes per epoch.
    """

    height: int
    width: int
    num_frames: int
    batch_size: int
    repeats: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.num_frames, self.batch_size, self.repeats) < 1:
            raise UserError(f"A bucket has {self}; all its numbers must be at least 1.")

    @property
    def name(self) -> str:
        """Height x width x frames."""
        return f"{self.height}x{self.width}x{self.num_frames}"

    @property
    def is_image(self) -> bool:
        """Whether images go here."""
        return self.num_frames == 1


@dataclass(frozen=True, kw_only=True)
class MediaSize:
    """What decides about the bucket of a file: its size, and its frames at the target rate (1 for an image)."""

    name: str
    height: int
    width: int
    num_frames: int
    is_image: bool


def choose_bucket(buckets: Sequence[Bucket], media: MediaSize) -> Bucket | None:
    """Pick the bucket of the nearest aspect, of these the longest that the clip fills.

    Among equals, the largest picture that needs no enlarging is taken, else the smallest. None if a video fills none.
    """
    fitting = [
        bucket
        for bucket in buckets
        if bucket.is_image == media.is_image and (media.is_image or bucket.num_frames <= media.num_frames)
    ]
    if not fitting:
        return None

    def distance(bucket: Bucket) -> float:
        return round(abs(math.log(bucket.width / bucket.height * media.height / media.width)), 9)

    nearest = min(map(distance, fitting))
    longest = max(bucket.num_frames for bucket in fitting if distance(bucket) == nearest)
    equals = [bucket for bucket in fitting if distance(bucket) == nearest and bucket.num_frames == longest]
    sizes = sorted(equals, key=lambda bucket: bucket.height * bucket.width)
    shrinking = [bucket for bucket in sizes if bucket.height <= media.height and bucket.width <= media.width]
    return shrinking[-1] if shrinking else sizes[0]


class BucketBatch(NamedTuple):
    """One step's batch: its bucket, and the numbers of its clips."""

    bucket: Bucket
    indices: np.ndarray


@dataclass(frozen=True)
class BucketPlan:
    """Which clips are in which bucket; every batch is a pure function of seed and step.

    Attributes:
        members: Bucket -> numbers of its clips, repeats not counted.
        mixture: Image and video batches per window.
        drops: Clips that fit no bucket.
        notes: What was merged, repeated or is empty, in words.
    """

    members: Mapping[Bucket, tuple[int, ...]]
    mixture: Mixture
    drops: tuple[UnusableClip, ...]
    notes: tuple[str, ...]

    @classmethod
    def make(
        cls,
        buckets: Sequence[Bucket],
        media: Sequence[MediaSize],
        *,
        images_per_window: int,
        videos_per_window: int,
        small: SmallBuckets = "repeat",
    ) -> "BucketPlan":
        """Sort clips into buckets; none of them vanishes without being counted.

        Args:
            buckets: All buckets.
            media: Size of every clip, by number.
            images_per_window: Image batches in every window of the mixture.
            videos_per_window: Video batches in every window.
            small: What happens to a bucket with fewer clips than a batch: its clips come several times per batch
                (`repeat`), go to the largest bucket they also fill (`merge`, else they repeat), or stop the run
                (`refuse`).

        Raises:
            UserError: if two buckets are of one size, a kind that the mixture asks for has no clip, or a bucket is too
                small and `small` is `refuse`; the message counts.
        """
        repeated = [name for name, count in Counter(bucket.name for bucket in buckets).items() if count > 1]
        if repeated:
            raise UserError(f"Two buckets are {repeated[0]}; give every size and length once.")
        members: dict[Bucket, list[int]] = {bucket: [] for bucket in sorted(buckets)}
        drops: list[UnusableClip] = []
        for number, item in enumerate(media):
            bucket = choose_bucket(buckets, item)
            if bucket is None:
                drops.append(unfit(buckets, item))
            else:
                members[bucket].append(number)
        notes = [f"Bucket {bucket.name} is empty." for bucket, numbers in members.items() if not numbers]
        notes += _settle_small(members, media, small)
        filled = {bucket: tuple(numbers) for bucket, numbers in members.items() if numbers}
        mixture = Mixture(parts=(("image", images_per_window), ("video", videos_per_window)))
        for kind, count in mixture.parts:
            if count and not any(bucket.is_image == (kind == "image") for bucket in filled):
                raise UserError(
                    f"The mixture takes {count} {kind} batches of {mixture.window}, but no {kind} bucket has a clip: "
                    f"{len(media)} clips, {len(drops)} of them fit no bucket. Add {kind}s or {kind} buckets, or set "
                    f"{kind}s_per_window to 0."
                )
        return cls(filled, mixture, tuple(drops), tuple(notes))

    def num_batches(self, bucket: Bucket) -> int:
        """Batches of a bucket per epoch of its kind, the last one filled up from the next epoch."""
        return -(-len(self.members[bucket]) * bucket.repeats // bucket.batch_size)

    def batch(self, seed: int, step: int) -> BucketBatch:
        """Give the batch of a step: the mixture says image or video, a shuffled epoch of batches says which bucket."""
        kind, number = self.mixture.at(seed, step)
        buckets = [bucket for bucket in self.members if bucket.is_image == (kind == "image")]
        counts = tuple(self.num_batches(bucket) for bucket in buckets)
        chosen, earlier = epoch_turn(seed, kind, number, counts)
        bucket = buckets[chosen]
        # Repeats need no list of their own: the stream is endless, they only make a bucket's turn come more often.
        members = np.array(self.members[bucket], dtype=np.int64)
        own_seed = fold_seed(seed, "bucket", bucket.name)
        return BucketBatch(bucket, members[indices_for_step(own_seed, earlier, bucket.batch_size, len(members))])

    def rank_batch(self, seed: int, step: int, rank: int, world: int) -> BucketBatch:
        """Give one rank's equal part of a step's batch; all ranks together have the whole, in order.

        Raises:
            UserError: if the batch cannot be shared evenly.
        """
        bucket, indices = self.batch(seed, step)
        return BucketBatch(bucket, share_of_rank(indices, rank, world, f"Bucket {bucket.name}"))

    def lines(self) -> list[str]:
        """Write the plan for people."""
        lines = [
            f"bucket {bucket.name}: {len(numbers)} clips"
            f"{f' x {bucket.repeats}' if bucket.repeats > 1 else ''}, {bucket.batch_size} per batch, "
            f"{self.num_batches(bucket)} batches per epoch"
            for bucket, numbers in self.members.items()
        ]
        ratio = ":".join(str(count) for _, count in self.mixture.parts)
        return [*lines, f"image:video batches {ratio}, exact over every {self.mixture.window} steps", *self.notes]


def unfit(buckets: Sequence[Bucket], media: MediaSize) -> UnusableClip:
    """Say why a clip fits no bucket."""
    if media.is_image:
        return UnusableClip("no bucket for images", media.name, "no bucket has 1 frame")
    lengths = sorted(bucket.num_frames for bucket in buckets if not bucket.is_image)
    if not lengths:
        return UnusableClip("no bucket for videos", media.name, "all buckets have 1 frame")
    return UnusableClip("shorter than every bucket", media.name, f"{media.num_frames} frames, {lengths[0]} are needed")


def _settle_small(members: dict[Bucket, list[int]], media: Sequence[MediaSize], small: SmallBuckets) -> list[str]:
    """Deal with buckets that hold less than a batch, in place; tell what was done."""
    notes: list[str] = []

    def is_small(bucket: Bucket) -> bool:
        return 0 < len(members[bucket]) * bucket.repeats < bucket.batch_size

    tiny = [bucket for bucket in members if is_small(bucket)]
    if tiny and small == "refuse":
        counts = ", ".join(f"{bucket.name} has {len(members[bucket])} of {bucket.batch_size}" for bucket in tiny)
        raise UserError(
            f"{len(tiny)} buckets hold fewer clips than one batch: {counts}. Add clips, lower their batch size, leave "
            "the buckets out, or let small buckets repeat or merge."
        )
    for bucket in tiny if small == "merge" else ():
        moved: Counter[str] = Counter()
        stay: list[int] = []
        for number in members[bucket]:
            # Only into buckets that are no smaller themselves, so that two never exchange their clips.
            others = [other for other in members if other != bucket and members[other] and not is_small(other)]
            target = choose_bucket(others, media[number])
            if target is None:
                stay.append(number)
            else:
                members[target].append(number)
                moved[target.name] += 1
        members[bucket] = stay
        notes += [f"{count} clips of bucket {bucket.name} are merged into {name}." for name, count in moved.items()]
    for bucket in [bucket for bucket in members if is_small(bucket)]:
        notes.append(
            f"Bucket {bucket.name} has {len(members[bucket])} clips for batches of {bucket.batch_size}: they repeat "
            "within a batch."
        )
    return notes


def epoch_turn(seed: int, kind: str, number: int, counts: tuple[int, ...]) -> tuple[int, int]:
    """Tell which of several buckets has batch `number` of their kind, and how many batches that bucket had before.

    Every epoch has each bucket as often as it has batches, in an order shuffled anew.

    Args:
        seed: Root of the order.
        kind: Which buckets; orders of different kinds are independent.
        number: Batch of the kind, from 0, over all epochs.
        counts: Batches of each bucket per epoch, at least 1.
    """
    epoch, place = divmod(number, sum(counts))
    order = _batch_order(seed, kind, epoch, counts)
    chosen = int(order[place])
    return chosen, epoch * counts[chosen] + int(np.count_nonzero(order[:place] == chosen))


@functools.lru_cache(maxsize=8)
def _batch_order(seed: int, kind: str, epoch: int, counts: tuple[int, ...]) -> np.ndarray:
    """Shuffle one epoch's batches: every bucket's number as often as it has batches."""
    buckets = np.repeat(np.arange(len(counts)), counts)
    keys = np.random.PCG64(fold_seed(seed, "bucket order", kind, epoch)).random_raw(len(buckets))
    order: np.ndarray = buckets[np.argsort(keys, kind="stable")]
    order.setflags(write=False)
    return order
