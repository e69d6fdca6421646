"""Equally long clips held in memory as bytes, so that an accelerator never waits for rendering or decoding."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from m4v.core.errors import UserError
from m4v.data.clip import Clip
from m4v.data.drops import describe_drops, require_usable
from m4v.data.source import ClipSource, UnusableClip
from m4v.training.progress import OnProgress, Pace, Progress

_REPORT_EVERY = 256


@dataclass(frozen=True)
class ClipPool:
    """Clips of one size.

    Attributes:
        frames: Pixels.
        captions: Alternative captions of every clip, at least one each.
        fps: Frames per second.
        foreground: Where objects are, if the source knows.
    """

    frames: UInt8[Tensor, "n t h w 3"]
    captions: tuple[tuple[str, ...], ...]
    fps: float
    foreground: Bool[Tensor, "n t h w"] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device) -> "ClipPool":
        """Move the pixels to a device."""
        foreground = None if self.foreground is None else self.foreground.to(device)
        return replace(self, frames=self.frames.to(device), foreground=foreground)

    def fits(self, device: torch.device) -> bool:
        """Tell whether the pixels take at most half of a CUDA device's free memory, leaving room for training."""
        if device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(device)
        return self.frames.numel() <= free // 2

    def chunks(self, size: int) -> Iterator["ClipPool"]:
        """Split into pools of at most `size` clips, in order."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            foreground = None if self.foreground is None else self.foreground[part]
            yield ClipPool(self.frames[part], self.captions[part], self.fps, foreground)


def load_clips(
    source: ClipSource, num_clips: int, *, num_threads: int, phase: str, on_progress: OnProgress
) -> ClipPool:
    """Read the first clips of a source into memory, in order, with several threads.

    Args:
        source: Gives clips by index; threads call it at the same time.
        num_clips: Clips wanted; fewer if the source has fewer.
        num_threads: At least 1.
        phase: Name in progress reports.
        on_progress: Told about clips read, and once about clips left out.

    Raises:
        UserError: if no clip is usable, or usable clips differ in size.
    """
    count = min(num_clips, len(source))
    builder = _PoolBuilder(count)
    drops: list[UnusableClip] = []
    pace = Pace(0, count)
    with ThreadPoolExecutor(num_threads) as executor:
        for number, result in enumerate(executor.map(lambda index: _read(source, index), range(count)), start=1):
            if isinstance(result, UnusableClip):
                drops.append(result)
            else:
                builder.add(result)
            if number % _REPORT_EVERY == 0 or number == count:
                on_progress(Progress(phase=phase, done=number, total=count, seconds_left=pace.seconds_left(number)))
    require_usable(len(builder), "the training data", drops, "Add videos, or lower num_frames.")
    if drops:
        message = f"{len(drops)} of {count} clips are left out:\n{describe_drops(drops)}"
        on_progress(Progress(phase=phase, done=count, total=count, message=message))
    return builder.finish()


def _read(source: ClipSource, index: int) -> Clip | UnusableClip:
    try:
        return source.clip(index)
    except UnusableClip as reason:
        return reason


class _PoolBuilder:
    """Copies clips into one array as they come, so that they are never in memory twice."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._frames: np.ndarray | None = None
        self._captions: list[tuple[str, ...]] = []
        self._fps = 0.0

    def __len__(self) -> int:
        return len(self._captions)

    def add(self, clip: Clip) -> None:
        if self._frames is None:
            self._frames = np.empty((self._capacity, *clip.frames.shape), dtype=np.uint8)
            self._fps = clip.fps
        if clip.frames.shape != self._frames.shape[1:]:
            raise UserError(
                f"{clip.source} is {clip.frames.shape}, but other clips are {self._frames.shape[1:]} (frames, height, "
                "width, channels). Cut them to one size and frame count first."
            )
        self._frames[len(self)] = clip.frames
        self._captions.append(clip.captions)

    def finish(self) -> ClipPool:
        assert self._frames is not None
        return ClipPool(torch.from_numpy(self._frames[: len(self)]), tuple(self._captions), self._fps)


def stack_clips(clips: Sequence[Clip]) -> ClipPool:
    """Put clips into one tensor.

    Raises:
        UserError: if they differ in size.
    """
    builder = _PoolBuilder(len(clips))
    for clip in clips:
        builder.add(clip)
    return builder.finish()
