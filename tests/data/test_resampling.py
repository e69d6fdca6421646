"""Frame choice against the definition: the frame nearest to each tick."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.data.resampling import resample, usable_length
from m4v.media.video import TimedFrame


def timed(seconds: list[float]) -> list[TimedFrame]:
    return [TimedFrame(np.full((1, 1, 3), index, np.uint8), time) for index, time in enumerate(seconds)]


def picked(seconds: list[float], fps: float) -> list[int]:
    return [int(pixels[0, 0, 0]) for pixels in resample(iter(timed(seconds)), fps)]


@given(st.integers(1, 60), st.sampled_from([8, 12, 23.976, 24, 25, 29.97, 60]))
def test_an_equal_rate_passes_every_frame_once(num_frames: int, fps: float) -> None:
    exact = [index / fps for index in range(num_frames)]
    assert picked(exact, fps) == list(range(num_frames))
    in_milliseconds = [round(time, 3) for time in exact]
    assert picked(in_milliseconds, fps) == list(range(num_frames))


def test_halving_and_doubling() -> None:
    assert picked([index / 16 for index in range(9)], 8) == [0, 2, 4, 6, 8]
    assert picked([index / 8 for index in range(3)], 16) == [0, 0, 1, 1, 2]


def test_three_seconds_stay_three_seconds() -> None:
    assert len(picked([index / 30 for index in range(90)], 24)) == 72
    assert len(picked([index / 25 for index in range(75)], 8)) == 24


def test_variable_rate_follows_the_clock() -> None:
    assert picked([0.0, 0.05, 0.10, 1.0, 2.0], 2) == [0, 2, 3, 3, 4]


@given(
    st.lists(st.floats(0.001, 0.5), min_size=1, max_size=40),
    st.floats(1, 60),
)
def test_every_pick_is_a_nearest_frame_and_order_is_kept(gaps: list[float], fps: float) -> None:
    seconds = [0.0, *np.cumsum(gaps).tolist()]
    picks = picked(seconds, fps)
    assert picks == sorted(picks)
    for tick, pick in enumerate(picks):
        best = min(abs(time - tick / fps) for time in seconds)
        assert abs(seconds[pick] - tick / fps) <= best + 3e-6
    assert abs((len(picks) - 1) / fps - seconds[-1]) <= 1 / fps


def test_no_frames_give_none() -> None:
    assert picked([], 8) == []


@pytest.mark.parametrize(("num_frames", "length"), [(0, 0), (1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (17, 17), (20, 17)])
def test_lengths_are_rounded_down(num_frames: int, length: int) -> None:
    assert usable_length(num_frames, 4) == length
