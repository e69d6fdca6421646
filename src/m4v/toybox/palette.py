"""Colours of the toybox world as sRGB triples in [0, 1]: saturated toys on muted grounds."""

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Triple = tuple[float, float, float]

COLOURS: Final[dict[str, Triple]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.02),
    "yellow": (1.00, 0.86, 0.08),
    "green": (0.08, 0.66, 0.16),
    "teal": (0.02, 0.66, 0.64),
    "blue": (0.10, 0.28, 0.92),
    "purple": (0.56, 0.18, 0.78),
    "pink": (1.00, 0.50, 0.72),
    "brown": (0.42, 0.24, 0.12),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.08),
}
"""Colour of the dominant part of an object, in the order of `axes.COLOURS`."""

GROUNDS: Final[dict[str, tuple[Triple, Triple]]] = {
    "checkered floor": ((0.80, 0.79, 0.77), (0.42, 0.43, 0.47)),
    "grass": ((0.50, 0.60, 0.34), (0.42, 0.53, 0.28)),
    "wood": ((0.70, 0.55, 0.40), (0.58, 0.43, 0.30)),
    "sand": ((0.85, 0.75, 0.57), (0.80, 0.69, 0.50)),
    "snow": ((0.89, 0.91, 0.95), (0.83, 0.87, 0.93)),
    "stone": ((0.56, 0.56, 0.58), (0.47, 0.47, 0.50)),
    "still water": ((0.16, 0.30, 0.36), (0.13, 0.26, 0.32)),
}
"""Two tones of every ground, blended by its texture."""

STUDIO_TINTS: Final[tuple[Triple, ...]] = (
    (0.80, 0.80, 0.82),
    (0.68, 0.78, 0.90),
    (0.93, 0.77, 0.80),
    (0.74, 0.88, 0.79),
    (0.94, 0.88, 0.74),
)
"""Backdrops of the plain studio."""

CLASHES: Final[frozenset[tuple[str, str]]] = frozenset(
    {("white", "snow"), ("brown", "wood"), ("teal", "still water"), ("black", "still water")}
)
"""(object colour, ground) pairs too close to tell apart; never drawn."""


def to_linear(srgb: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """Convert sRGB values in [0, 1] to linear light."""
    return np.asarray(srgb, dtype=np.float64) ** 2.2
