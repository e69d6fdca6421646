"""Lays videos out as one picture: a row of evenly spaced frames for every video."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from m4v.core.errors import UserError

_GAP = 2
_PAPER = 255


def contact_sheet(
    videos: Sequence[UInt8[np.ndarray, "t h w 3"]], columns: int = 1, frames_per_video: int = 6
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a grid of videos, each a strip of evenly spaced frames from the first to the last.

    Args:
        videos: Videos of equal height and width; numbers of frames may differ.
        columns: Strips side by side.
        frames_per_video: Frames of every strip.

    Raises:
        UserError: If there is no video, sizes differ, or a count is below 1.
    """
    if columns < 1 or frames_per_video < 1:
        raise UserError(f"columns is {columns} and frames_per_video {frames_per_video}; both must be at least 1")
    sizes = {video.shape[1:] for video in videos}
    if len(sizes) != 1:
        raise UserError(f"a contact sheet needs videos of one size; got {sorted(sizes) or 'none'}")
    height, width, _ = next(iter(sizes))
    rows = -(-len(videos) // columns)
    strip_width = frames_per_video * width + (frames_per_video - 1)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (strip_width + 2 * _GAP), 3), _PAPER, dtype=np.uint8)
    for number, video in enumerate(videos):
        top = _GAP + (number // columns) * (height + _GAP)
        left = _GAP + (number % columns) * (strip_width + 2 * _GAP)
        for place, frame in enumerate(np.linspace(0, len(video) - 1, frames_per_video).round().astype(int)):
            start = left + place * (width + 1)
            sheet[top : top + height, start : start + width] = video[frame]
    return sheet
