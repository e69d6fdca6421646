"""Properties of the eight scan paths on any grid; the printed tables are in tests/paper."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.models.denoiser.recomposition.scan_paths import scan_path
from tests.models.denoiser.slow_recomposition import walk

sides = st.integers(1, 9)
letters = st.sampled_from("abcdefgh")


@given(letters, sides, sides, st.booleans())
def test_equals_a_walk_cell_by_cell(letter: str, height: int, width: int, continuous: bool) -> None:
    order = scan_path(letter, height, width, continuous).tolist()
    assert order == [row * width + column for row, column in walk(letter, height, width, continuous)]
    assert sorted(order) == list(range(height * width))


@given(letters, sides, sides)
def test_every_step_goes_to_a_neighbour(letter: str, height: int, width: int) -> None:
    cells = [divmod(index, width) for index in scan_path(letter, height, width).tolist()]
    for (row, column), (next_row, next_column) in itertools.pairwise(cells):
        assert abs(row - next_row) + abs(column - next_column) == 1


@given(letters, st.integers(2, 9), st.integers(2, 9))
def test_a_raster_jumps_back_at_the_end_of_every_line(letter: str, height: int, width: int) -> None:
    cells = [divmod(index, width) for index in scan_path(letter, height, width, continuous=False).tolist()]
    jumps = [
        abs(row - next_row) + abs(column - next_column) > 1
        for (row, column), (next_row, next_column) in itertools.pairwise(cells)
    ]
    num_lines = width if letter in "aceg" else height
    assert sum(jumps) == num_lines - 1


@pytest.mark.parametrize("pair", ["ag", "bd", "ce", "fh"])
@given(st.integers(1, 5), st.integers(1, 5))
def test_pairs_are_reversals_on_even_grids(pair: str, half_height: int, half_width: int) -> None:
    first, second = (scan_path(letter, 2 * half_height, 2 * half_width).tolist() for letter in pair)
    assert first == second[::-1]


@pytest.mark.parametrize("pair", ["ae", "bf", "cg", "dh"])
@given(st.integers(0, 4), st.integers(0, 4))
def test_pairs_are_reversals_on_odd_grids(pair: str, half_height: int, half_width: int) -> None:
    first, second = (scan_path(letter, 2 * half_height + 1, 2 * half_width + 1).tolist() for letter in pair)
    assert first == second[::-1]


def test_the_eight_paths_differ() -> None:
    assert len({tuple(scan_path(letter, 4, 6).tolist()) for letter in "abcdefgh"}) == 8


def test_shared_paths_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        scan_path("a", 2, 2)[0] = 1
