"""Writes the clips of one source in one pass over its frames."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from m4v.data.preparation.config import PrepareConfig
from m4v.data.preparation.shots import Span
from m4v.data.resampling import resample
from m4v.media.images import resize_cover
from m4v.media.video import TimedFrame, decode_frames, write_video

_SCORED_FRAMES = 8


class _SizeChange(Exception):
    """A picture has another size than the first of its span."""


@dataclass(frozen=True)
class WrittenClip:
    """What became of a span.

    Attributes:
        span: The span.
        path: Its file.
        frames: Up to eight of its frames, spread evenly; None if it was not written.
        problem: Why it was not written; empty if it was.
    """

    span: Span
    path: Path
    frames: UInt8[np.ndarray, "k h w 3"] | None
    problem: str = ""


def write_clips(source: Path, wanted: list[tuple[Span, Path]], config: PrepareConfig) -> Iterator[WrittenClip]:
    """Write spans, which must ascend and not overlap; spans in which pictures change their size are not written.

    Sizes become even by leaving out the last row or column, since yuv420p knows no others.

    Raises:
        MediaError: if the source cannot be read.
        UserError: if the place cannot be written.
    """
    needed = {number for span, _ in wanted for number in range(span.first, span.end)}
    frames = decode_frames(source, wanted=needed.__contains__)
    for span, path in wanted:
        sampled: list[np.ndarray] = []
        picks = set(np.linspace(0, span.num_frames - 1, min(_SCORED_FRAMES, span.num_frames)).round().astype(int))
        own = itertools.islice(frames, span.end - span.first)
        try:
            write_video(path, _pictures(own, config, picks, sampled), config.cut.fps, config.quality)
        except _SizeChange as change:
            for _ in own:  # the next span begins behind them
                pass
            yield WrittenClip(span, path, None, str(change))
        else:
            yield WrittenClip(span, path, np.stack(sampled))
    frames.close()  # type: ignore[attr-defined]  # decode_frames is a generator


def _pictures(
    frames: Iterator[TimedFrame], config: PrepareConfig, picks: set[int], sampled: list[np.ndarray]
) -> Iterator[np.ndarray]:
    first: TimedFrame | None = None

    def from_zero() -> Iterator[TimedFrame]:
        nonlocal first
        for frame in frames:
            first = frame if first is None else first
            height, width = first.pixels.shape[:2]
            if frame.pixels.shape[:2] != (height, width):
                raise _SizeChange(f"from {width}x{height} to {frame.pixels.shape[1]}x{frame.pixels.shape[0]}")
            yield TimedFrame(frame.pixels, frame.seconds - first.seconds)

    for number, pixels in enumerate(resample(from_zero(), config.cut.fps)):
        picture = _sized(pixels, config.short_side)
        if number in picks:
            sampled.append(picture)
        yield picture


def clip_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Size of a clip made from pictures of a size: shrunk to the shorter side, if asked for, and even."""
    factor = min(1.0, short_side / min(height, width)) if short_side else 1.0
    height, width = max(2, round(height * factor)), max(2, round(width * factor))
    return height - height % 2, width - width % 2


def _sized(pixels: np.ndarray, short_side: int) -> np.ndarray:
    height, width = clip_size(pixels.shape[0], pixels.shape[1], short_side)
    if short_side and min(pixels.shape[:2]) > short_side:
        return resize_cover(pixels, height, width)
    return pixels[:height, :width]
