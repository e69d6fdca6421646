"""Writes the clips of one source in one pass over its frames."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m4v.data.preparation.config import PrepareConfig
from m4v.data.preparation.shots import Span
from m4v.data.resampling import resample
from m4v.media.images import resize_cover
from m4v.media.video import TimedFrame, decode_frames, write_video

_SCORED_FRAMES = 8


def write_clips(
    source: Path, wanted: list[tuple[Span, Path]], config: PrepareConfig
) -> Iterator[tuple[Span, Path, np.ndarray]]:
    """Write spans, which must ascend and not overlap; yield each with its file and up to eight of its frames.

    Sizes become even by leaving out the last row or column, since yuv420p knows no others.

    Raises:
        MediaError: if the source cannot be read.
        UserError: if pictures change their size within a span, or the place cannot be written.
    """
    needed = {number for span, _ in wanted for number in range(span.first, span.end)}
    frames = decode_frames(source, wanted=needed.__contains__)
    for span, path in wanted:
        sampled: list[np.ndarray] = []
        picks = set(np.linspace(0, span.num_frames - 1, min(_SCORED_FRAMES, span.num_frames)).round().astype(int))
        own = itertools.islice(frames, span.end - span.first)
        write_video(path, _pictures(own, config, picks, sampled), config.cut.fps, config.quality)
        yield span, path, np.stack(sampled)
    frames.close()  # type: ignore[attr-defined]  # decode_frames is a generator


def _pictures(
    frames: Iterator[TimedFrame], config: PrepareConfig, picks: set[int], sampled: list[np.ndarray]
) -> Iterator[np.ndarray]:
    start: float | None = None

    def from_zero() -> Iterator[TimedFrame]:
        nonlocal start
        for frame in frames:
            start = frame.seconds if start is None else start
            yield TimedFrame(frame.pixels, frame.seconds - start)

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
