"""Files of a data folder by size and length, each encoded at the size of its bucket."""

from collections.abc import Sequence
from dataclasses import dataclass

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.bucketed_source import measure_media
from m4v.data.buckets import Bucket, choose_bucket, unfit
from m4v.data.clip import Clip
from m4v.data.drops import describe_drops, require_usable
from m4v.data.folder_source import FolderSource
from m4v.training.config import RunConfig
from m4v.training.data_config import BucketConfig, DataConfig
from m4v.training.progress import OnProgress, Progress
from m4v.training.sources import training_files

_STAGES = ("vae", "t2i", "t2v")


@dataclass(frozen=True)
class BucketSource:
    """The files of one bucket as clips of its size.

    Attributes:
        bucket: Size and length.
        source: All files.
        indices: Numbers of those in the bucket.
    """

    bucket: BucketConfig
    source: FolderSource
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def clip(self, index: int) -> Clip:
        """Decode clip `index` of the bucket."""
        bucket = self.bucket
        shape = VideoShape(num_frames=bucket.num_frames, height=bucket.height, width=bucket.width)
        return self.source.clip_as(self.indices[index], shape, bucket.num_frames)

    def name(self, index: int) -> str:
        """Name of clip `index`, without decoding it."""
        return self.source.name(self.indices[index])


def require_bucket_stages(config: RunConfig, device_type: str) -> None:
    """Refuse buckets for stages that train clips of one shape.

    Raises:
        UserError: if there are buckets and a stage other than vae, t2i and t2v.
    """
    others = [name for name, _ in config.stages(device_type) if name not in _STAGES]
    if config.data.buckets and others:
        raise UserError(
            f"data.buckets is set, but the stage {others[0]} trains clips of one size and length; leave the buckets "
            f"out, or train only {', '.join(_STAGES)}."
        )


def bucket_sources(
    data: DataConfig, num_clips: int, num_images: int, time_compression: int, on_progress: OnProgress
) -> tuple[BucketSource, ...]:
    """Sort the files of a run's folder into its buckets; what fits none, and empty buckets, are told.

    Args:
        data: Settings with buckets and one folder.
        num_clips: Most videos.
        num_images: Most still pictures.
        time_compression: Frames per latent frame.
        on_progress: Told how many files each bucket has.

    Raises:
        UserError: if the data is not one folder, or the bucket of the run's own size has no video.
    """
    sources = data.all_sources
    if len(sources) > 1 or sources[0].kind != "folder" or sources[0].path is None:
        raise UserError("data.buckets sorts the files of one folder; name it with --data DIR, without other sources.")
    longest = max(bucket.num_frames for bucket in data.buckets)
    shape = VideoShape(num_frames=longest, height=data.height, width=data.width)
    source = FolderSource(sources[0].path, shape=shape, fps=data.fps, time_compression=time_compression)
    videos, _, images = training_files(source, num_clips)
    wanted = {*videos[:num_clips], *images[:num_images]}
    by_name = {bucket.name: bucket for bucket in data.buckets}
    choices = [
        Bucket(height=bucket.height, width=bucket.width, num_frames=bucket.num_frames, batch_size=1)
        for bucket in data.buckets
    ]
    members: dict[BucketConfig, list[int]] = {bucket: [] for bucket in data.buckets}
    sizes, numbers, drops = measure_media(source)
    for size, number in zip(sizes, numbers, strict=True):
        chosen = choose_bucket(choices, size)
        if number in wanted and chosen is None:
            drops.append(unfit(choices, size))
        elif number in wanted and chosen is not None:
            members[by_name[chosen.name]].append(number)
    lines = [f"bucket {bucket.name}: {len(own) or 'no'} files" for bucket, own in members.items()]
    if drops:
        lines.append(f"{len(drops)} files are left out:\n{describe_drops(drops)}")
    on_progress(Progress(phase="read clips", done=0, total=0, message="\n".join(lines)))
    num_main = len(members[data.main_bucket])
    require_usable(
        num_main, f"bucket {data.main_bucket.name}", drops, "It is the run's own size, which samples are made at."
    )
    return tuple(BucketSource(bucket, source, own) for bucket, own in members.items() if own)
