"""The eight spatial scan paths (Appendix A.1, Fig. 6): zigzags from each corner, along rows or columns.

| letter | start | runs first | then |
|---|---|---|---|
| a | top-left | down | right |
| b | top-left | right | down |
| c | bottom-left | up | right |
| d | bottom-left | right | up |
| e | bottom-right | up | left |
| f | bottom-right | left | up |
| g | top-right | down | left |
| h | top-right | left | down |

The appendix names the end as the opposite corner; a zigzag ends there only when it has an odd number of lines.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Path(NamedTuple):
    from_bottom: bool
    from_right: bool
    along_columns: bool


_PATHS = {
    "a": _Path(False, False, True),
    "b": _Path(False, False, False),
    "c": _Path(True, False, True),
    "d": _Path(True, False, False),
    "e": _Path(True, True, True),
    "f": _Path(True, True, False),
    "g": _Path(False, True, True),
    "h": _Path(False, True, False),
}


@lru_cache(maxsize=1024)
def scan_path(letter: str, height: int, width: int, continuous: bool = True) -> NDArray[np.int64]:
    """Flat index (row-major) of the k-th visited cell of a grid.

    Args:
        letter: "a" to "h", as in Fig. 6.
        continuous: Reverse every second line so that each step goes to a neighbour; False gives raster lines.

    Source: Appendix A.1, Fig. 6.
    """
    path = _PATHS[letter]
    grid = np.arange(height * width).reshape(height, width)
    if path.from_bottom:
        grid = grid[::-1]
    if path.from_right:
        grid = grid[:, ::-1]
    lines = (grid.T if path.along_columns else grid).copy()
    if continuous:
        lines[1::2] = lines[1::2, ::-1].copy()
    order = lines.reshape(-1)
    order.setflags(write=False)
    return order
