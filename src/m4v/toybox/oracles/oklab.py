"""A perceptual colour space in which shading does not matter: OKLab lightness, and hue and saturation relative to it.

Source: B. Ottosson, "A perceptual color space for image processing" (2020). Its cube root turns a change of light by a
factor into a common factor of L, a and b, so that (a / L, b / L) stays the same in light and in shade.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from m4v.toybox import palette

_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_LINEAR: Final = palette.to_linear(np.arange(256) / 255.0).astype(np.float32)
_DARKEST: Final = 0.12
"""Lightness below which relative chroma would be mostly noise."""


def to_shading_free(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w 3"]:
    """Return lightness L in [0, 1] and the shading-free chroma (a / L, b / L), about -0.4..0.4, of every pixel."""
    cones = np.cbrt(_LINEAR[frames] @ _TO_CONES.T)
    lab = cones @ _TO_LAB.T
    lab[..., 1:] /= np.maximum(lab[..., :1], _DARKEST)
    return lab
