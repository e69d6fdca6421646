"""Contact sheets: every chosen frame, untouched, in its place."""

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.toybox.contact_sheet import contact_sheet


def test_frames_lie_in_rows_from_first_to_last() -> None:
    videos = [np.full((9, 4, 6, 3), 10 * number, dtype=np.uint8) for number in range(3)]
    for video in videos:
        video += np.arange(9, dtype=np.uint8)[:, None, None, None]
    sheet = contact_sheet(videos, columns=2, frames_per_video=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (4 + 2) + 2, 2 * (3 * 6 + 2 + 4), 3)
    colours = [int(value) for value in np.unique(sheet) if value != 255]
    assert colours == [0, 4, 8, 10, 14, 18, 20, 24, 28]
    assert (sheet == 20).sum() == 4 * 6 * 3
    assert sheet[3, 3].tolist() == [0, 0, 0]


def test_a_still_fills_its_strip_and_mixed_sizes_are_refused() -> None:
    still = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    assert (contact_sheet([still], frames_per_video=2) == 0).sum() == 2 * 4 * 4 * 3
    with pytest.raises(UserError, match="one size"):
        contact_sheet([still, np.zeros((1, 5, 4, 3), dtype=np.uint8)])
    with pytest.raises(UserError, match="one size"):
        contact_sheet([])
    with pytest.raises(UserError, match="at least 1"):
        contact_sheet([still], columns=0)
