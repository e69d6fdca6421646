"""Clips and still pictures of a run by its data settings; the only place that knows the kinds of sources."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.core.shapes import VideoShape
from m4v.data.clip import Clip
from m4v.data.drops import describe_drops
from m4v.data.folder_source import FolderSource
from m4v.data.mixed_source import MixedSource, WeightedSource
from m4v.data.source import ClipSource
from m4v.data.toybox_source import ToyboxSource
from m4v.toybox.clip import make_clip
from m4v.toybox.renderer import render
from m4v.toybox.tiers import get_tier
from m4v.training.clip_pool import ClipPool, load_clips
from m4v.training.config import DataConfig
from m4v.training.data_config import SourceConfig
from m4v.training.progress import OnProgress, Progress

_MAX_HELD_BACK_SHARE = 10


class PartOfSource:
    """Some of another source's clips."""

    def __init__(self, source: ClipSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def clip(self, index: int) -> Clip:
        """Make clip `index` of the part."""
        return self._source.clip(self._indices[index])

    def name(self, index: int) -> str:
        """Name of clip `index`, without making it; only of files."""
        return str(getattr(self._source, "name")(self._indices[index]))  # noqa: B009 - not every source has names


class PooledSource:
    """Clips of a pool as a source, so that nothing is rendered or decoded twice."""

    def __init__(self, pool: ClipPool) -> None:
        self._pool = pool
        self._frames: np.ndarray = pool.frames.numpy()

    def __len__(self) -> int:
        return len(self._pool)

    def clip(self, index: int) -> Clip:
        """Return clip `index` of the pool."""
        return Clip(self._frames[index], self._pool.captions[index], self._pool.fps, f"clip {index}")


class ShrunkSource:
    """Clips at a whole fraction of their size, every pixel the mean of a square."""

    def __init__(self, source: ClipSource, factor: int) -> None:
        self._source = source
        self._factor = factor

    def __len__(self) -> int:
        return len(self._source)

    def clip(self, index: int) -> Clip:
        """Make clip `index`, shrunk."""
        clip = self._source.clip(index)
        return replace(clip, frames=shrink(clip.frames, self._factor))


def shrink(frames: np.ndarray, factor: int) -> np.ndarray:
    """Shrink pictures `t h w 3` by a whole factor; every pixel is the rounded mean of a square."""
    count, height, width, channels = frames.shape
    squares = frames.reshape(count, height // factor, factor, width // factor, factor, channels)
    return np.rint(squares.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


@dataclass(frozen=True)
class OpenedSource:
    """What one source of a run gives.

    Attributes:
        config: Its settings.
        clips: Videos to train on; None if it holds none.
        held_back: Videos that are never trained on; None if it holds too few.
        images: Still pictures; None if it holds none.
        note: What a person should know about it; may be empty.
    """

    config: SourceConfig
    clips: ClipSource | None
    held_back: ClipSource | None = None
    images: ClipSource | None = None
    note: str = ""


def num_threads(data: DataConfig) -> int:
    """Threads that read clips."""
    return data.num_threads or os.cpu_count() or 1


def open_sources(
    data: DataConfig, num_clips: int, seed: int, time_compression: int, on_progress: OnProgress
) -> tuple[OpenedSource, ...]:
    """List every source; what folders hold but cannot give is said through `on_progress`.

    Raises:
        UserError: if a folder or a tier cannot be used.
    """
    opened = []
    for config in data.all_sources:
        source = (
            _open_toybox(config, data, num_clips, seed)
            if config.kind == "toybox"
            else _open_folder(config, data, num_clips, time_compression)
        )
        opened.append(source)
        if source.note:
            on_progress(Progress(phase="read clips", done=0, total=0, message=source.note))
    return tuple(opened)


def training_clips(opened: Sequence[OpenedSource], num_clips: int) -> ClipSource:
    """Videos of all sources by their weights.

    Raises:
        UserError: if no source holds a video.
    """
    parts = [(source.config, source.clips) for source in opened if source.clips is not None]
    return _mixed(parts, num_clips, "videos")


def training_images(opened: Sequence[OpenedSource], num_images: int) -> ClipSource | None:
    """Still pictures of all sources by their weights; None if there are none or none are wanted."""
    parts = [(source.config, source.images) for source in opened if source.images is not None]
    return _mixed(parts, num_images, "images") if parts and num_images else None


def _mixed(parts: Sequence[tuple[SourceConfig, ClipSource]], count: int, what: str) -> ClipSource:
    if not parts:
        raise UserError(f"No data source holds {what}; name one with --data DIR, or with data.sources.")
    if len(parts) == 1:
        source = parts[0][1]
        return PartOfSource(source, range(min(count, len(source))))
    return MixedSource([WeightedSource(config.name, source, config.weight) for config, source in parts], count)


def describe_mixture(source: ClipSource) -> str:
    """Clips per source, for the log; empty where there is only one."""
    if not isinstance(source, MixedSource):
        return ""
    counts = source.counts()
    shares = ", ".join(f"{name} {count} ({count / max(1, len(source)):.1%})" for name, count in counts.items())
    return f"{len(source)} clips: {shares}."


def validation_pool(
    data: DataConfig, opened: Sequence[OpenedSource], num_clips: int, seed: int, on_progress: OnProgress
) -> ClipPool | None:
    """Clips that are never trained on, with object masks where the source is rendered; None if there are too few."""
    phase = "read validation clips"
    if data.is_rendered:
        own_seed = fold_seed(seed, "validation")
        source = _toybox_source(data.all_sources[0], data, num_clips, own_seed)
        pool = load_clips(source, num_clips, num_threads=num_threads(data), phase=phase, on_progress=on_progress)
        return replace(pool, foreground=torch.from_numpy(_object_masks(data, num_clips, own_seed)))
    parts = [(source.config, source.held_back) for source in opened if source.held_back is not None]
    if not parts:
        return None
    held_back = _mixed(parts, num_clips, "videos")
    return load_clips(held_back, len(held_back), num_threads=num_threads(data), phase=phase, on_progress=on_progress)


def _open_toybox(config: SourceConfig, data: DataConfig, num_clips: int, seed: int) -> OpenedSource:
    own_seed = fold_seed(seed, "stream", config.stream) if config.stream else seed
    return OpenedSource(config, _toybox_source(config, data, num_clips, own_seed))


def _toybox_source(config: SourceConfig, data: DataConfig, num_clips: int, seed: int) -> ClipSource:
    tier = config.tier or data.tier
    source = ToyboxSource(tier, split=data.split, seed=seed, num_clips=num_clips, num_frames=data.num_frames)
    factor = _shrink_factor(data, tier)
    return source if factor == 1 else ShrunkSource(source, factor)


def _shrink_factor(data: DataConfig, tier: str) -> int:
    size = get_tier(tier).size
    if data.height != data.width or size % data.height:
        raise UserError(
            f"The toybox tier {tier} has {size} x {size} pixels, but {data.width} x {data.height} are wanted; choose a "
            f"square whose side divides {size}."
        )
    return size // data.height


def _object_masks(data: DataConfig, num_clips: int, seed: int) -> Bool[np.ndarray, "n t h w"]:
    tier = data.all_sources[0].tier or data.tier
    factor = _shrink_factor(data, tier)
    scenes = [make_clip(tier, data.split, seed, index).scene for index in range(num_clips)]
    masks = [render(scene).object_ids[: data.num_frames] > 0 for scene in scenes]
    return np.stack([mask[:, factor // 2 :: factor, factor // 2 :: factor] for mask in masks])


def _open_folder(config: SourceConfig, data: DataConfig, num_clips: int, time_compression: int) -> OpenedSource:
    assert config.path is not None
    shape = VideoShape(num_frames=data.num_frames, height=data.height, width=data.width)
    source = FolderSource(
        config.path, shape=shape, fps=data.fps, time_compression=time_compression, min_frames=data.num_frames
    )
    trained, held_back, images = training_files(source, num_clips)
    return OpenedSource(
        config,
        PartOfSource(source, trained) if trained else None,
        PartOfSource(source, held_back) if held_back else None,
        PartOfSource(source, images) if images else None,
        _describe_folder(config, source, len(trained), len(images)),
    )


def training_files(source: FolderSource, num_clips: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers of a folder's videos to train on, of those held back, and of its still pictures."""
    videos = [index for index, entry in enumerate(source.entries) if not entry.is_image]
    images = [index for index, entry in enumerate(source.entries) if entry.is_image]
    num_trained = len(videos) - min(num_clips, len(videos) // _MAX_HELD_BACK_SHARE)
    return videos[:num_trained], videos[num_trained:], images


def _describe_folder(config: SourceConfig, source: FolderSource, num_trained: int, num_images: int) -> str:
    listing = source.listing
    kind = " (made by a model)" if config.is_synthetic else ""
    num_videos = len(source) - num_images
    lines = [f"{listing.root}{kind}: {num_videos} videos found ({listing.layout}), {num_trained} used for training."]
    if num_images:
        lines.append(f"{num_images} still images serve image batches.")
    if listing.drops:
        lines.append(f"{len(listing.drops)} files or rows are left out:\n{describe_drops(listing.drops)}")
    return "\n".join(lines)
