"""Clips of a run by its data settings; the only place that knows the kinds of sources."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from m4v.core.seeds import fold_seed
from m4v.core.shapes import VideoShape
from m4v.data.clip import Clip
from m4v.data.drops import describe_drops
from m4v.data.folder_source import FolderSource
from m4v.data.source import ClipSource
from m4v.data.toybox_source import ToyboxSource
from m4v.toybox.clip import make_clip
from m4v.toybox.renderer import render
from m4v.training.clip_pool import ClipPool, load_clips
from m4v.training.config import DataConfig
from m4v.training.progress import OnProgress, Progress

_MAX_HELD_BACK_SHARE = 10


class PartOfSource:
    """A range of another source's clips."""

    def __init__(self, source: ClipSource, start: int, stop: int) -> None:
        self._source = source
        self._indices = range(start, stop)

    def __len__(self) -> int:
        return len(self._indices)

    def clip(self, index: int) -> Clip:
        """Make clip `index` of the range."""
        return self._source.clip(self._indices[index])


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


def num_threads(data: DataConfig) -> int:
    """Threads that read clips."""
    return data.num_threads or os.cpu_count() or 1


def with_folder(data: DataConfig, folder: Path | str | None) -> DataConfig:
    """Read from a folder if one is given, else leave the settings as they are."""
    return data if folder is None else replace(data, source="folder", folder=str(folder))


def training_source(
    data: DataConfig, num_clips: int, seed: int, time_compression: int, on_progress: OnProgress
) -> ClipSource:
    """Clips to train on; what a folder holds but cannot give is said through `on_progress`.

    Raises:
        UserError: if the folder or the tier cannot be used.
    """
    if data.source == "toybox":
        return ToyboxSource(data.tier, split=data.split, seed=seed, num_clips=num_clips, num_frames=data.num_frames)
    source = _folder_source(data, time_compression)
    count = min(num_clips, len(source) - _num_held_back(source, num_clips))
    message = _describe_folder(source, count)
    on_progress(Progress(phase="read clips", done=0, total=count, message=message))
    return PartOfSource(source, 0, count)


def validation_pool(
    data: DataConfig, num_clips: int, seed: int, time_compression: int, on_progress: OnProgress
) -> ClipPool | None:
    """Clips that are never trained on, with object masks where the source is rendered; None if there are too few."""
    phase = "read validation clips"
    if data.source == "toybox":
        own_seed = fold_seed(seed, "validation")
        source = ToyboxSource(
            data.tier, split=data.split, seed=own_seed, num_clips=num_clips, num_frames=data.num_frames
        )
        pool = load_clips(source, num_clips, num_threads=num_threads(data), phase=phase, on_progress=on_progress)
        return replace(pool, foreground=torch.from_numpy(_object_masks(data, num_clips, own_seed)))
    folder = _folder_source(data, time_compression)
    count = _num_held_back(folder, num_clips)
    if count == 0:
        return None
    held_back = PartOfSource(folder, len(folder) - count, len(folder))
    return load_clips(held_back, count, num_threads=num_threads(data), phase=phase, on_progress=on_progress)


def _object_masks(data: DataConfig, num_clips: int, seed: int) -> Bool[np.ndarray, "n t h w"]:
    scenes = [make_clip(data.tier, data.split, seed, index).scene for index in range(num_clips)]
    return np.stack([render(scene).object_ids[: data.num_frames] > 0 for scene in scenes])


def _folder_source(data: DataConfig, time_compression: int) -> FolderSource:
    assert data.folder is not None
    shape = VideoShape(num_frames=data.num_frames, height=data.height, width=data.width)
    return FolderSource(
        data.folder,
        shape=shape,
        fps=data.fps,
        time_compression=time_compression,
        min_frames=data.num_frames,
        kind="video",
    )


def _describe_folder(source: FolderSource, num_used: int) -> str:
    listing = source.listing
    num_images = sum(entry.is_image for entry in listing.entries)
    lines = [f"{listing.root}: {len(source)} videos found ({listing.layout}), {num_used} used for training."]
    if num_images:
        lines.append(f"{num_images} still images are not used.")
    if listing.drops:
        lines.append(f"{len(listing.drops)} files or rows are left out:\n{describe_drops(listing.drops)}")
    return "\n".join(lines)


def _num_held_back(source: FolderSource, num_clips: int) -> int:
    return min(num_clips, len(source) // _MAX_HELD_BACK_SHARE)
