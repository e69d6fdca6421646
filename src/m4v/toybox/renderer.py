"""Pictures of a scene, with the exact truth beside them: object masks, poses, boxes and visible shares."""

from dataclasses import dataclass
from math import isqrt
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from m4v.core.errors import UserError
from m4v.toybox import kernels
from m4v.toybox.camera import CameraTrack, camera_track
from m4v.toybox.motions import Poses, animate
from m4v.toybox.packing import PackedScene, noise_table, pack, sample_grid, tone_curve
from m4v.toybox.records import Scene
from m4v.toybox.tiers import get_tier

RENDERER_VERSION: Final = 1
"""Raised whenever the same scene would give other pixels."""

_COVER_SIZE: Final = 32


@dataclass(frozen=True, kw_only=True)
class Render:
    """A rendered clip.

    Attributes:
        object_ids: What covers most of each pixel: 0 backdrop, else object index + 1.
        boxes: Picture box (left, top, right, bottom; right and bottom exclusive, in pixels) of the visible pixels of
            every object; -1 where none is visible.
        visible_share: Visible part of every object, of all of it including what lies outside the picture.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    object_ids: UInt8[np.ndarray, "t h w"]
    poses: Poses
    camera: CameraTrack
    boxes: Float[np.ndarray, "t n 4"]
    visible_share: Float[np.ndarray, "t n"]


def render(scene: Scene, size: int | None = None, num_frames: int | None = None, samples: int = 4) -> Render:
    """Render a scene.

    Args:
        size: Height and width in pixels; the tier's own by default.
        num_frames: Frames that span the clip; the scene's own by default.
        samples: Rays per pixel, a square number up to 49.

    Raises:
        UserError: If size, num_frames or samples is out of range.
    """
    size = get_tier(scene.tier).size if size is None else size
    num_frames = scene.num_frames if num_frames is None else num_frames
    if size < 1 or num_frames < 1:
        raise UserError(f"cannot render {num_frames} frames of {size} px; both must be at least 1")
    side = isqrt(max(samples, 0))
    if side * side != samples or not 1 <= side <= 7:
        raise UserError(f"samples is {samples}; use a square number from 1 to 49, such as 4")
    poses, camera = animate(scene, num_frames), camera_track(scene, num_frames)
    packed = pack(scene, poses, camera)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    object_ids = np.empty((num_frames, size, size), dtype=np.uint8)
    kernels.render_clip(
        packed.parts, packed.objects, packed.cameras, packed.world, noise_table(), tone_curve(), sample_grid(side),
        frames, object_ids,
    )  # fmt: skip
    seen, alone = count_pixels(packed)
    return Render(
        frames=frames,
        object_ids=object_ids,
        poses=poses,
        camera=camera,
        boxes=_boxes(object_ids, len(scene.objects)),
        visible_share=np.divide(seen, alone, out=np.zeros_like(seen), where=alone > 0),
    )


def count_pixels(packed: PackedScene) -> tuple[Float[np.ndarray, "t n"], Float[np.ndarray, "t n"]]:
    """Return the share of the picture that every object covers, and that it would cover alone in a wider picture."""
    shape = packed.objects.shape[:2]
    seen, alone = np.zeros(shape), np.zeros(shape)
    kernels.cover(packed.parts, packed.objects, packed.cameras, _COVER_SIZE, seen, alone)
    return seen / _COVER_SIZE**2, alone / _COVER_SIZE**2


def _boxes(object_ids: UInt8[np.ndarray, "t h w"], num_objects: int) -> Float[np.ndarray, "t n 4"]:
    boxes = np.full((len(object_ids), num_objects, 4), -1.0)
    for index in range(num_objects):
        mask = object_ids == index + 1
        columns, rows = mask.any(axis=1), mask.any(axis=2)
        found = rows.any(axis=1)
        size = mask.shape[1]
        left, top = columns.argmax(axis=1), rows.argmax(axis=1)
        right, bottom = size - columns[:, ::-1].argmax(axis=1), size - rows[:, ::-1].argmax(axis=1)
        box = np.stack([left, top, right, bottom], axis=1)
        boxes[found, index] = box[found]
    return boxes
