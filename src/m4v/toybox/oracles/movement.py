"""Measures how an object moves, seen from a resting camera, and names the motion."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox.camera import TAN_HALF_VIEW
from m4v.toybox.oracles.segmentation import WORKING_SIZE
from m4v.toybox.oracles.tracks import Track

_MIDDLE: Final = 0.5 * WORKING_SIZE - 0.5
_FOCAL: Final = 0.5 * WORKING_SIZE / TAN_HALF_VIEW

STILL_BELOW: Final = 0.40
"""Displacement over the clip, in object widths, under which an object counts as standing still."""

JUMP_ABOVE: Final = 0.20
"""Height in object widths above which a rise that comes down again counts as a jump."""

_LIFT_ABOVE: Final = 0.50
_GROWTH_ABOVE: Final = 0.30
_END_FRAMES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Change over the clip, in object widths.

    Attributes:
        right: Displacement to the right.
        toward: Displacement toward the camera.
        jump: Highest rise that came down again.
        lift: Height gained from the first to the last frames; growing on the ground gains too.
        growth: Logarithm of the change of apparent size.
    """

    right: float
    toward: float
    jump: float
    lift: float
    growth: float

    def named(self, motions: Collection[str]) -> str:
        """Name the motion: still, left, right, toward, away or jumps; if `motions` has them, also rises, falls, grows
        and shrinks.
        """
        is_lifted = abs(self.lift) > _LIFT_ABOVE and self.jump < 0.6 * abs(self.lift)
        if is_lifted and "rises" in motions:
            if abs(self.growth) > _GROWTH_ABOVE and (self.growth > 0) == (self.lift > 0):
                return "grows" if self.growth > 0 else "shrinks"
            return "rises" if self.lift > 0 else "falls"
        if self.jump > JUMP_ABOVE:
            return "jumps"
        if max(abs(self.right), abs(self.toward)) < STILL_BELOW:
            return "still"
        if abs(self.right) >= abs(self.toward):
            return "right" if self.right > 0 else "left"
        return "toward" if self.toward > 0 else "away"

    @property
    def confidence(self) -> float:
        """Distance from the nearest other answer, from 0 to 1."""
        if self.jump > JUMP_ABOVE:
            return min((self.jump - JUMP_ABOVE) / JUMP_ABOVE, 1.0)
        across, along = abs(self.right), abs(self.toward)
        if max(across, along) < STILL_BELOW:
            return 1.0 - max(across, along) / STILL_BELOW
        return min(abs(across - along), max(across, along) - STILL_BELOW, 1.0)


def movement(track: Track, horizon_row: float) -> Movement:
    """Measure a motion in units of the object's own width, from its place and apparent size.

    An object of width w at depth z covers s = focal w / z pixels. So focal / s is its depth, x / s its place across and
    (y - horizon) / s its depth below the eye, all in widths: perspective cannot pass for a motion.

    Args:
        horizon_row: Where the horizon lies in the picture.
    """
    blobs = track.clear_blobs(5)
    times = np.array([blob.frame for blob in blobs], dtype=np.float64) / max(track.num_frames - 1, 1)
    size = np.sqrt([blob.area for blob in blobs])
    across = (np.array([blob.x for blob in blobs]) - _MIDDLE) / size
    below_eye = (np.array([blob.y for blob in blobs]) - horizon_row) / size
    return Movement(
        right=_slope(times, across),
        toward=-_slope(times, _FOCAL / size),
        jump=_hop(below_eye),
        lift=float(np.median(below_eye[:_END_FRAMES]) - np.median(below_eye[-_END_FRAMES:])),
        growth=_slope(times, np.log(size)),
    )


def _slope(times: Float[np.ndarray, "t"], values: Float[np.ndarray, "t"]) -> float:
    """Change over the whole clip by the median of all pairwise slopes (Theil-Sen)."""
    if len(times) < 2:
        return 0.0
    first, second = np.triu_indices(len(times), 1)
    return float(np.median((values[second] - values[first]) / (times[second] - times[first])))


def _hop(below_eye: Float[np.ndarray, "t"]) -> float:
    """Largest rise that is preceded and followed by lower places, after a running median over three frames."""
    if len(below_eye) < 5:
        return 0.0
    padded = np.concatenate([below_eye[:1], below_eye, below_eye[-1:]])
    smooth = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    before = np.maximum.accumulate(smooth)
    after = np.maximum.accumulate(smooth[::-1])[::-1]
    return float((np.minimum(before, after) - smooth).max())
