"""Fig. 6 and Appendix A.1: the eight scan paths on a 3 x 4 grid, written by hand from start corner and directions."""

import pytest

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.recomposition.scan_paths import scan_path

#   0  1  2  3
#   4  5  6  7
#   8  9 10 11
FIGURE_6 = {
    "a": [0, 4, 8, 9, 5, 1, 2, 6, 10, 11, 7, 3],
    "b": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11],
    "c": [8, 4, 0, 1, 5, 9, 10, 6, 2, 3, 7, 11],
    "d": [8, 9, 10, 11, 7, 6, 5, 4, 0, 1, 2, 3],
    "e": [11, 7, 3, 2, 6, 10, 9, 5, 1, 0, 4, 8],
    "f": [11, 10, 9, 8, 4, 5, 6, 7, 3, 2, 1, 0],
    "g": [3, 7, 11, 10, 6, 2, 1, 5, 9, 8, 4, 0],
    "h": [3, 2, 1, 0, 4, 5, 6, 7, 11, 10, 9, 8],
}


@pytest.mark.parametrize("letter", FIGURE_6)
def test_path(letter: str) -> None:
    assert scan_path(letter, 3, 4).tolist() == FIGURE_6[letter]


def test_layers_take_turns() -> None:
    config = DenoiserConfig()
    assert "".join(config.scan_path(layer) for layer in range(16)) == "abcdefghabcdefgh"
