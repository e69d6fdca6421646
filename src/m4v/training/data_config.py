"""Where the clips of a run come from and what they are cut to, torch-free (Appendix D: sources differ by stage)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from m4v.core.errors import UserError
from m4v.training.optim_config import PerDevice, require

SourceKind = Literal["toybox", "folder"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One named source among several.

    Attributes:
        name: What the log calls it.
        kind: `toybox` renders clips; `folder` reads video and image files with captions.
        path: The folder, when `kind` is `folder`; a relative one is looked for in the folder of `--data`.
        weight: Clips taken from it in every window of the mixture of sources, at least 1.
        tier: World size, when `kind` is `toybox`; empty: that of the data settings.
        stream: Which endless sequence of scenes, when `kind` is `toybox`: equal numbers give equal clips.
        is_synthetic: Whether a model made its videos (Sec. 4.5); only said in the log.
    """

    name: str
    kind: SourceKind = "folder"
    path: str | None = None
    weight: int = 1
    tier: str = ""
    stream: int = 0
    is_synthetic: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name), "A data source has no name; give it one, for the log.")
        require(self.weight >= 1, f"The weight of source {self.name} is {self.weight}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Clips of one size and length, batched together.

    Attributes:
        num_frames: Frames of a clip; 1 is for still pictures.
        height: Rows of a frame.
        width: Columns of a frame.
        batch_share: Batch size as a share of the stage's; large clips want less.
    """

    num_frames: int
    height: int
    width: int
    batch_share: float = 1.0

    def __post_init__(self) -> None:
        require(
            min(self.num_frames, self.height, self.width) >= 1 and self.batch_share > 0,
            f"A bucket has {self}; sizes must be at least 1, and its share of the batch above 0.",
        )

    @property
    def name(self) -> str:
        """Height x width x frames."""
        return f"{self.height}x{self.width}x{self.num_frames}"

    @property
    def is_image(self) -> bool:
        """Whether still pictures go here."""
        return self.num_frames == 1

    def batch_size(self, stage_batch_size: int, num_columns: int) -> int:
        """Items per step.

        Raises:
            UserError: if the share gives no whole multiple of the columns.
        """
        size = stage_batch_size * self.batch_share
        require(
            round(size) >= 1 and abs(size - round(size)) < 1e-6 and round(size) % num_columns == 0,
            f"Bucket {self.name} has batch_share {self.batch_share:g}, which of a batch of {stage_batch_size} is "
            f"{size:g}; choose a share that gives a multiple of the {num_columns} columns.",
        )
        return round(size)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and what they are cut to.

    Attributes:
        source: `toybox` renders clips; `folder` reads video and image files with captions. Not read if there are
            `sources`.
        folder: The folder, when `source` is `folder`.
        tier: World size, when `source` is `toybox`.
        split: Combinations used of the toybox world.
        sources: Several sources, mixed by their weights; none: the one that `source` names.
        num_clips: Distinct clips to draw from; a folder never gives more than it holds.
        num_images: Still pictures to draw image batches from, beside the clips; where a source has none, image batches
            are the first frames of clips. 0 leaves pictures aside.
        num_frames: Frames of a clip; must suit the VAE. 0 takes the initial model's own, as do the next three.
        height: Rows of a frame. Toybox clips are shrunk to it by a whole factor.
        width: Columns of a frame.
        fps: Frames per second; folder videos are resampled to it.
        num_threads: Threads that render or decode; 0 uses every core.
        cache: What `m4v data cache` made of the folder: latents are read from there, and nothing is decoded.
        buckets: Sizes and lengths that the stages t2i and t2v train on side by side; every file of the folder goes to
            the bucket of the nearest aspect that it fills. One of them has the size and length above. None: all clips
            have that.
    """

    source: SourceKind = "toybox"
    folder: str | None = None
    tier: str = "xs"
    split: str = "train"
    sources: tuple[SourceConfig, ...] = ()
    num_clips: PerDevice = PerDevice(cpu=4096, accelerator=60_000)
    num_images: PerDevice = PerDevice(cpu=4096, accelerator=60_000)
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: float = 8.0
    num_threads: int = 0
    cache: str | None = None
    buckets: tuple[BucketConfig, ...] = ()

    def __post_init__(self) -> None:
        shapes = [bucket.name for bucket in self.buckets]
        own = f"{self.height}x{self.width}x{self.num_frames}"
        require(len(set(shapes)) == len(shapes), f"Two buckets have one size and length: {', '.join(shapes)}.")
        require(
            not self.buckets or own in shapes,
            f"data.buckets are {', '.join(shapes)}; one of them must be the size and length of the run, {own}.",
        )
        require(not self.buckets or self.cache is None, "data.cache holds clips of one size; leave out it or buckets.")
        names = [source.name for source in self.sources]
        require(len(set(names)) == len(names), f"Two data sources have one name: {', '.join(names)}.")

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The sources, also where there is only the one that `source` names."""
        if self.sources:
            return self.sources
        return (SourceConfig(name=self.source, kind=self.source, path=self.folder),)

    @property
    def main_bucket(self) -> BucketConfig:
        """The bucket of the run's own size and length; only where there are buckets."""
        own = (self.height, self.width, self.num_frames)
        return next(item for item in self.buckets if (item.height, item.width, item.num_frames) == own)

    @property
    def is_rendered(self) -> bool:
        """Whether all clips come from the toybox world, so that its vocabulary is enough."""
        return all(source.kind == "toybox" for source in self.all_sources)


def with_folder(data: DataConfig, folder: Path | str | None) -> DataConfig:
    """Read from a folder if one is given, else leave the settings as they are.

    Where the settings name several folders, they are looked for in the given one; if none of them is there, the given
    folder is the only source.

    Raises:
        UserError: if some of the named folders are there and others are not.
    """
    if folder is None:
        return data
    relative = [source for source in data.sources if source.kind == "folder" and not _is_absolute(source)]
    missing = [source for source in relative if not _place(source, folder).is_dir()]
    if not relative or len(missing) == len(relative):
        return replace(data, source="folder", folder=str(folder), sources=())
    if missing:
        raise UserError(
            f"{folder} has no {_names(missing)}; this recipe mixes {_names(data.sources)}. Put them there, or name "
            "other sources with a settings file."
        )
    placed = tuple(
        replace(source, path=str(_place(source, folder))) if source in relative else source for source in data.sources
    )
    return replace(data, sources=placed)


def missing_folders(data: DataConfig) -> tuple[SourceConfig, ...]:
    """Folder sources whose folder is not known yet, or not there."""
    return tuple(
        source
        for source in data.all_sources
        if source.kind == "folder" and (source.path is None or not Path(source.path).is_dir())
    )


def _is_absolute(source: SourceConfig) -> bool:
    return source.path is not None and Path(source.path).is_absolute()


def _place(source: SourceConfig, root: Path | str) -> Path:
    return Path(root) / (source.path or source.name)


def _names(sources: Sequence[SourceConfig]) -> str:
    return ", ".join(source.path or source.name for source in sources)
