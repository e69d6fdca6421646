"""Silhouette and inner shading of a blob, scaled to a standard size so that blobs can be compared."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from m4v.toybox.oracles.segmentation import CHROMA_STEP, DARK_STEP, Blob, Segmentation

GRID: Final = 20
_SIDE: Final = 2.3
"""Side of the standard square, in square roots of the blob's area."""

_PAINT_WEIGHT: Final = 1.0
_FITTINGS_WEIGHT: Final = 1.0
_SHADING_WEIGHT: Final = 1.0
_GREY: Final = 0.05
_MARGIN: Final = 2
_TOLERATED: Final = 0.35


def describe(seg: Segmentation, blob: Blob, colour: int) -> Float[np.ndarray, "n"]:
    """Return three maps on a grid around the blob: paint, fittings of other colours, and shading of the paint.

    The maps are soft (a pixel half covered counts half) and do not depend on the blob's colour, size or place.

    Args:
        colour: Palette colour that counts as the paint; the blob must have pixels of it.
    """
    rows, columns = _window(blob.mask)
    lab, background = seg.lab[blob.frame][rows, columns], seg.background[blob.frame][rows, None]
    inside, near = blob.mask[rows, columns], _dilated(blob.mask[rows, columns])
    painted = inside & (seg.labels[blob.frame][rows, columns] == colour)
    paint, strange = _matte(lab, background, painted)
    paint = np.where(near, paint, 0.0)
    fittings = np.where(near, strange, 0.0)
    solid = paint > 0.7
    usual = np.median(lab[..., 0][solid]) if solid.any() else 1.0
    shading = paint * np.clip((lab[..., 0] / usual - 1.0) * 2.5, -1.0, 1.0)
    cover = paint + fittings
    total = max(float(cover.sum()), 1.0)
    y = float(cover.sum(axis=1) @ np.arange(cover.shape[0])) / total
    x = float(cover.sum(axis=0) @ np.arange(cover.shape[1])) / total
    maps = np.stack([paint * _PAINT_WEIGHT, fittings * _FITTINGS_WEIGHT, shading * _SHADING_WEIGHT], axis=-1)
    return _sample(maps, x, y, _SIDE * total**0.5).astype(np.float32).ravel()


def _window(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Return the rows and columns around the set pixels, with a margin."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(rows[0] - _MARGIN, 0), rows[-1] + _MARGIN + 1),
        slice(max(columns[0] - _MARGIN, 0), columns[-1] + _MARGIN + 1),
    )


def _matte(
    lab: Float[np.ndarray, "h w 3"], background: Float[np.ndarray, "h 1 5"], painted: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Split pixels into the blob's own paint and backdrop; return the share of paint, and how strange what remains is.

    The edge of the paint is a mixture and not strange; tyres, bark and glass are.
    """
    inside = lab[painted]
    chroma = np.hypot(inside[:, 1], inside[:, 2])
    if np.median(chroma) < _GREY:
        own, axes = np.median(inside[:, :1], axis=0), slice(0, 1)
    else:
        own, axes = np.median(inside[chroma >= np.median(chroma), 1:], axis=0), slice(1, 3)
    toward = own - background[..., axes]
    norm = np.maximum((toward**2).sum(axis=-1), 1e-4)
    paint = np.clip(((lab[..., axes] - background[..., axes]) * toward).sum(axis=-1) / norm, 0.0, 1.0)
    usual, shaded = np.median(inside, axis=0), np.quantile(inside[:, 0], 0.1)
    mixed = background[..., 1:3] + paint[..., None] * (usual[1:] - background[..., 1:3])
    off_colour = np.sqrt(((lab[..., 1:] - mixed) ** 2).sum(axis=-1)) / CHROMA_STEP
    darkest = background[..., 0] + paint * (min(float(shaded), 1.0) - background[..., 0])
    too_dark = (darkest - lab[..., 0]) / background[..., 0] / DARK_STEP
    return paint, np.clip(np.maximum(off_colour * (1.0 - paint), too_dark) - _TOLERATED, 0.0, 1.0)


def _dilated(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Add the eight neighbours of every set pixel."""
    padded = np.pad(mask, 1)
    out = np.zeros_like(mask)
    height, width = mask.shape
    for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        out |= padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
    return out


def _sample(maps: Float[np.ndarray, "h w c"], x: float, y: float, side: float) -> Float[np.ndarray, "g g c"]:
    """Read maps bilinearly on a square grid around (x, y); zero outside the picture."""
    offsets = ((np.arange(GRID) + 0.5) / GRID - 0.5) * side
    padded = np.pad(maps, ((GRID, GRID), (GRID, GRID), (0, 0)))
    ys = np.clip(y + offsets + GRID, 0, padded.shape[0] - 2)
    xs = np.clip(x + offsets + GRID, 0, padded.shape[1] - 2)
    iy, ix = ys.astype(int), xs.astype(int)
    fy, fx = (ys - iy)[:, None, None], (xs - ix)[None, :, None]
    top = padded[iy][:, ix] * (1 - fx) + padded[iy][:, ix + 1] * fx
    bottom = padded[iy + 1][:, ix] * (1 - fx) + padded[iy + 1][:, ix + 1] * fx
    return top * (1 - fy) + bottom * fy
