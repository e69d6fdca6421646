"""Choosing frames so that a video of any rate plays at the model's rate."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from m4v.media.video import TimedFrame


def resample(frames: Iterator[TimedFrame], fps: float) -> Iterator[np.ndarray]:
    """Yield, for each tick of the target clock, the decoded frame shown nearest to it.

    Works on the frames' own times, so that variable rates and rounded container clocks neither drift nor gain or lose
    a frame; at an equal rate every frame is passed on exactly once.
    """
    tolerance = 1e-6  # a tick exactly between two frames always takes the earlier one
    previous: TimedFrame | None = None
    tick = 0
    for frame in frames:
        if previous is not None:
            middle = (previous.seconds + frame.seconds) / 2
            while tick / fps <= middle + tolerance:
                yield previous.pixels
                tick += 1
        previous = frame
    # A quarter of a tick forgives containers that round times to milliseconds.
    while previous is not None and tick / fps <= previous.seconds + 0.25 / fps:
        yield previous.pixels
        tick += 1


def resampled_count(seconds: float, fps: float) -> int:
    """Frames that `resample` yields for pictures of which the last is shown `seconds` after the first."""
    return math.floor(seconds * fps + 0.25) + 1


def resampled_length(num_frames: int, fps: float, target_fps: float) -> int:
    """Frames that a video of constant rate has after `resample`, which counts decoded ones."""
    return 0 if num_frames < 1 else resampled_count((num_frames - 1) / fps, target_fps)


def is_variable(times: Sequence[float]) -> bool:
    """Tell whether frames are shown for unequal times; the rounding of containers to milliseconds is forgiven."""
    gaps = np.diff(times)
    return len(gaps) > 1 and bool(np.abs(gaps - np.median(gaps)).max() > 0.1 * np.median(gaps) + 0.002)


def usable_length(num_frames: int, time_compression: int) -> int:
    """Round a frame count down to the nearest `time_compression * k + 1`, k >= 0; 0 stays 0."""
    return 0 if num_frames < 1 else (num_frames - 1) // time_compression * time_compression + 1
