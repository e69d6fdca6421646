"""Compiled loops of the judges: colour matting against each row's background, and connected components."""

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeVar

import numba
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """Compile with numba; without its disk cache where no cache folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


@_compiled
def smooth(image, out):  # type: ignore[no-untyped-def]
    """Fill `out` with `image` (t h w c) blurred by the kernel (1 2 1) / 4 along rows and columns."""
    num_frames, height, width, channels = image.shape
    for f in range(num_frames):
        for y in range(height):
            up, down = max(y - 1, 0), min(y + 1, height - 1)
            for x in range(width):
                left, right = max(x - 1, 0), min(x + 1, width - 1)
                for c in range(channels):
                    out[f, y, x, c] = (
                        4.0 * image[f, y, x, c]
                        + 2.0 * (image[f, up, x, c] + image[f, down, x, c])
                        + 2.0 * (image[f, y, left, c] + image[f, y, right, c])
                        + image[f, up, left, c] + image[f, up, right, c]
                        + image[f, down, left, c] + image[f, down, right, c]
                    ) / 16.0  # fmt: skip


@_compiled
def row_backgrounds(lab, colours, pooled, is_checkered, out):  # type: ignore[no-untyped-def]
    """Fill `out` (t h 5) with the backdrop of every row, from the pixels that do not have a palette colour.

    Columns: medians of lightness and both chromas, then the lightness of the dark and of the light tiles of a checkered
    floor (elsewhere the median again).

    With `pooled` the pixels of all frames count together. Rows that have the palette's colours nearly everywhere keep
    their plain median.
    """
    num_frames, height, width, _ = lab.shape
    depth = num_frames if pooled else 1
    plain, free = np.empty((3, depth * width), dtype=np.float32), np.empty((3, depth * width), dtype=np.float32)
    for start in range(0, num_frames, depth):
        for y in range(height):
            total, kept = 0, 0
            for f in range(start, start + depth):
                for x in range(width):
                    a, b = lab[f, y, x, 1], lab[f, y, x, 2]
                    coloured = False
                    for c in range(colours.shape[0]):
                        ca, cb = colours[c, 1], colours[c, 2]
                        norm = ca * ca + cb * cb
                        if norm > 0.0025:
                            share = (a * ca + b * cb) / norm
                            rest = abs(a * cb - b * ca) / norm
                            coloured = coloured or (share > 0.72 and rest < 0.3)
                    for c in range(3):
                        plain[c, total] = lab[f, y, x, c]
                        free[c, kept] = lab[f, y, x, c]
                    total += 1
                    kept += 0 if coloured else 1
            if 6 * kept > total:
                plain, free = free, plain
                total = kept
            for c in range(3):
                values = np.sort(plain[c, :total])
                out[start, y, c] = values[total // 2]
                if c == 0:
                    out[start, y, 3] = values[int((0.2 if is_checkered else 0.5) * (total - 1))]
                    out[start, y, 4] = values[int((0.8 if is_checkered else 0.5) * (total - 1))]
        for f in range(start + 1, start + depth):
            out[f] = out[start]


@_compiled
def match_colours(lab, background, colours, chroma_step, dark_step, light_step, labels, deviation):  # type: ignore[no-untyped-def]
    """Name the colour of every pixel and say how far it departs from its row's background.

    A pixel is a mixture of background and one colour; the share of the colour, less what the mixture leaves
    unexplained, is the colour's score. `labels` gets the best colour (-1 where no score reaches 0.4); `deviation` gets
    the distance to the background in steps that tell an object from shadow and ground texture (1 = object).
    `colours` has rows (L, a / L, b / L); achromatic ones (both chromas under 0.05) are matched by lightness.
    """
    num_frames, height, width = labels.shape
    for f in range(num_frames):
        for y in range(height):
            ba, bb = background[f, y, 1], background[f, y, 2]
            dark, light = background[f, y, 3], background[f, y, 4]
            for x in range(width):
                lightness = lab[f, y, x, 0]
                da, db = lab[f, y, x, 1] - ba, lab[f, y, x, 2] - bb
                chroma = sqrt(da * da + db * db) / chroma_step
                tone = max((dark - lightness) / dark / dark_step, (lightness - light) / light_step)
                deviation[f, y, x] = max(chroma, tone)
                best, winner = -1.0, -1
                for c in range(colours.shape[0]):
                    ca, cb = colours[c, 1] - ba, colours[c, 2] - bb
                    off = abs(lightness - colours[c, 0])
                    if abs(colours[c, 1]) < 0.05 and abs(colours[c, 2]) < 0.05:
                        # White and black: nearly grey, nearly as light or dark as the colour, unlike the ground.
                        grey = sqrt(lab[f, y, x, 1] ** 2 + lab[f, y, x, 2] ** 2) / 0.10
                        score = 1.0 - grey * grey - (off / 0.25) ** 2 if tone > 0.7 else 0.0
                    else:
                        norm = ca * ca + cb * cb
                        share = (da * ca + db * cb) / norm
                        rest = sqrt(max(da * da + db * db - share * share * norm, 0.0) / norm)
                        score = min(share, 1.0) - 0.6 * rest - 0.35 * max(share - 1.15, 0.0) - 0.25 * off
                    # Brown is dark orange, pink is light red: lightness settles what chroma leaves open.
                    if score > 0.4 and score - 0.5 * off > best:
                        best, winner = score - 0.5 * off, c
                labels[f, y, x] = winner


@_compiled
def connected(mask, reach_y, reach_x, labels):  # type: ignore[no-untyped-def]
    """Number the components of `mask` (h w) into `labels` from 1; return how many there are.

    Pixels up to `reach_y` rows and `reach_x` columns apart belong together.
    """
    height, width = mask.shape
    stack = np.empty((height * width, 2), dtype=np.int32)
    count = 0
    labels[:] = 0
    for y0 in range(height):
        for x0 in range(width):
            if not mask[y0, x0] or labels[y0, x0]:
                continue
            count += 1
            labels[y0, x0] = count
            stack[0, 0], stack[0, 1] = y0, x0
            top = 1
            while top:
                top -= 1
                y, x = stack[top, 0], stack[top, 1]
                for v in range(max(y - reach_y, 0), min(y + reach_y + 1, height)):
                    for u in range(max(x - reach_x, 0), min(x + reach_x + 1, width)):
                        if mask[v, u] and not labels[v, u]:
                            labels[v, u] = count
                            stack[top, 0], stack[top, 1] = v, u
                            top += 1
    return count
