"""Finds the objects of a clip: pixels that depart from their row's background, gathered into blobs of one colour."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from m4v.toybox.oracles import kernels
from m4v.toybox.oracles.oklab import to_shading_free

WORKING_SIZE: Final = 64
"""Height and width at which clips are judged; larger ones are averaged down first."""

CHROMA_STEP: Final = 0.075
"""Difference in shading-free chroma that tells an object from the texture of the ground."""

DARK_STEP: Final = 0.46
"""Loss of lightness, relative to the backdrop, that no shadow reaches."""

_LIGHT_STEP: Final = 0.09
# Parts of one toy may be parted by a band that resembles the backdrop, such as the windows of a car.
_REACH_Y: Final = 4
_REACH_X: Final = 2
_MIN_AREA: Final = 14
_TILES: Final = (0.58, 0.84)
_MIN_COLOURED: Final = 0.15


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One connected object of one frame.

    Attributes:
        mask: Its pixels in the whole (working size) frame.
        votes: Pixels of the blob per palette colour.
        touches_border: Whether part of it may lie outside the picture.
    """

    frame: int
    mask: Bool[np.ndarray, "h w"]
    area: int
    x: float
    y: float
    votes: Int[np.ndarray, "c"]
    touches_border: bool

    @property
    def colour(self) -> int:
        """Index of the palette colour with most pixels."""
        return int(self.votes.argmax())


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What the judges need of a clip.

    Attributes:
        lab: Smoothed lightness and shading-free chroma.
        background: The same for the backdrop of every row, then the lightness of dark and light tiles.
        labels: Best palette colour of every pixel, -1 for none.
        deviation: Distance of every pixel to the backdrop (1 = object rather than shadow or texture).
        blobs: Objects of every frame, largest first.
    """

    lab: Float[np.ndarray, "t h w 3"]
    background: Float[np.ndarray, "t h 5"]
    labels: Int[np.ndarray, "t h w"]
    deviation: Float[np.ndarray, "t h w"]
    blobs: tuple[tuple[Blob, ...], ...]


def to_working_size(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t 64 64 3"]:
    """Average blocks of pixels, or repeat the nearest ones, until frames are 64 px high and wide."""
    _, height, width, _ = frames.shape
    if height == width == WORKING_SIZE:
        return frames
    block = max(min(height, width) // WORKING_SIZE, 1)
    cut = frames[:, : height // block * block, : width // block * block]
    t, h, w, _ = cut.shape
    small = cut.reshape(t, h // block, block, w // block, block, 3).mean(axis=(2, 4))
    rows = np.arange(WORKING_SIZE) * small.shape[1] // WORKING_SIZE
    columns = np.arange(WORKING_SIZE) * small.shape[2] // WORKING_SIZE
    return np.round(small[:, rows][:, :, columns]).astype(np.uint8)


def smoothed_lab(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w 3"]:
    """Return lightness and shading-free chroma, blurred over neighbouring pixels against noise."""
    lab = to_shading_free(frames)
    out = np.empty_like(lab)
    kernels.smooth(lab, out)
    return out


def segment(
    frames: UInt8[np.ndarray, "t h w 3"], colours: Float[np.ndarray, "c 3"], *, has_fixed_camera: bool
) -> Segmentation:
    """Find the blobs of every frame.

    Args:
        frames: Clip at working size.
        colours: Lightness and shading-free chroma of every palette colour.
        has_fixed_camera: Whether all frames share one backdrop.
    """
    lab = smoothed_lab(frames)
    shape = lab.shape[:3]
    background = np.empty((*shape[:2], 5), dtype=np.float32)
    kernels.row_backgrounds(lab, colours, has_fixed_camera, _is_checkered(lab), background)
    labels, deviation = np.empty(shape, dtype=np.int8), np.empty(shape, dtype=np.float32)
    kernels.match_colours(lab, background, colours, CHROMA_STEP, DARK_STEP, _LIGHT_STEP, labels, deviation)
    blobs = tuple(_blobs(index, labels[index], deviation[index], len(colours)) for index in range(shape[0]))
    return Segmentation(lab=lab, background=background, labels=labels, deviation=deviation, blobs=blobs)


def _is_checkered(lab: Float[np.ndarray, "t h w 3"]) -> bool:
    """Tell a checkered floor by its two greys, both frequent in the lower half of the picture."""
    lower = lab[0, lab.shape[1] // 2 :]
    is_grey = np.hypot(lower[..., 1], lower[..., 2]) < 0.05
    shares = [(is_grey & (np.abs(lower[..., 0] - tone) < 0.06)).mean() for tone in _TILES]
    return min(shares) > 0.15


def _blobs(
    frame: int, labels: Int[np.ndarray, "h w"], deviation: Float[np.ndarray, "h w"], num_colours: int
) -> tuple[Blob, ...]:
    coloured = labels >= 0
    mask = coloured | (deviation > 1.0)
    numbers = np.empty(mask.shape, dtype=np.int32)
    count = kernels.connected(mask, _REACH_Y, _REACH_X, numbers)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    found = []
    for number in range(1, count + 1):
        if areas[number] < _MIN_AREA:
            continue
        own = numbers == number
        votes = np.bincount(labels[own & coloured], minlength=num_colours)
        if votes.max() < max(_MIN_COLOURED * areas[number], 0.5 * _MIN_AREA):
            continue
        rows, columns = np.nonzero(own)
        border = rows.min() == 0 or columns.min() == 0
        border = border or rows.max() == mask.shape[0] - 1 or columns.max() == mask.shape[1] - 1
        found.append(
            Blob(
                frame=frame,
                mask=own,
                area=int(areas[number]),
                x=float(columns.mean()),
                y=float(rows.mean()),
                votes=votes,
                touches_border=bool(border),
            )
        )
    return tuple(sorted(found, key=lambda blob: -blob.area))
