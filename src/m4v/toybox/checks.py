"""Checks that a placed scene shows what can be said about it; scenes that do not are drawn again."""

from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox.camera import CameraTrack, camera_track
from m4v.toybox.models import MODELS
from m4v.toybox.motions import Poses, animate
from m4v.toybox.packing import pack
from m4v.toybox.records import Relation, Scene
from m4v.toybox.renderer import count_pixels
from m4v.toybox.tiers import Tier

LEAST_SHARE: Final = 0.015
"""Share of the picture that an object must cover, on average over the clip."""
LEAST_TRAVEL: Final = 4.0
"""Pixels that a stated motion must move something."""
_HIDDEN: Final = 0.7
_HIDDEN_FRAMES: Final = 1.0 / 3.0
_CHECK_FRAMES: Final = 9
_SIDE_MARGIN: Final = 0.25
_DEPTH_MARGIN: Final = 0.6
_TOUCH: Final = 0.82
"""Share of the sum of two radii below which two objects pass through each other."""


def violations(scene: Scene, tier: Tier) -> tuple[str, ...]:
    """Return what a scene fails to show: too small, hidden or outside, moving too little, colliding, misplaced."""
    poses, camera = animate(scene, _CHECK_FRAMES), camera_track(scene, _CHECK_FRAMES)
    found = []
    if _collide(scene, poses):
        found.append("objects pass through each other")
    place, depth = camera.project(poses.centre[:1])
    found += [f"not {relation.name}" for relation in scene.relations if not _holds(relation, place[0], depth[0])]
    travel = _travel(scene, poses) * 0.5 * tier.size
    for index, item in enumerate(scene.objects):
        if {step.name for step in item.motions} - {"still", "spins"} and travel[index] < LEAST_TRAVEL:
            found.append(f"object {index} hardly moves")
    # Counting pixels costs most, so it comes last.
    return tuple(found) or _unseen(scene, tier, poses, camera)


def _unseen(scene: Scene, tier: Tier, poses: Poses, camera: CameraTrack) -> tuple[str, ...]:
    seen, alone = count_pixels(pack(scene, poses, camera))
    visible = seen / np.maximum(alone, 1e-9)
    found = []
    for index in range(len(scene.objects)):
        if seen[:, index].mean() < LEAST_SHARE:
            found.append(f"object {index} is too small")
        hidden_frames = (visible[:, index] < 1.0 - _HIDDEN).mean()
        if hidden_frames > _HIDDEN_FRAMES or visible[:, index].min() < tier.least_visible:
            found.append(f"object {index} is hidden")
    return tuple(found)


def _travel(scene: Scene, poses: Poses) -> Float[np.ndarray, "n"]:
    """Return how far the middle, top or side of every object moves, seen by the camera of the first frame."""
    still = camera_track(scene, 1)
    top = poses.centre + np.einsum("tnij,j->tni", poses.rotation, (0.0, 0.0, 0.7)) * poses.scale[..., 2:]
    side = poses.centre + np.array([0.7, 0.0, 0.0]) * poses.scale[..., :1]
    tracks = np.stack([still.project(points)[0] for points in (poses.centre, top, side)])
    return (tracks.max(axis=1) - tracks.min(axis=1)).max(axis=(0, 2))


def _collide(scene: Scene, poses: Poses) -> bool:
    radii = np.array([MODELS[item.kind].radius for item in scene.objects]) * poses.scale[..., 0]
    stacked = [{r.subject, r.target} for r in scene.relations if r.name == "on top of"]
    for first in range(len(scene.objects)):
        for second in range(first):
            apart = np.linalg.norm(poses.centre[:, first, :2] - poses.centre[:, second, :2], axis=1)
            is_close = (apart < _TOUCH * (radii[:, first] + radii[:, second])).any()
            if is_close and {first, second} not in stacked:
                return True
    return False


def _holds(relation: Relation, place: np.ndarray, depth: np.ndarray) -> bool:
    """Tell whether a relation holds with a margin in the first frame, seen from the camera."""
    across = place[relation.subject, 0] - place[relation.target, 0]
    behind = depth[relation.subject] - depth[relation.target]
    return {
        "left of": across < -_SIDE_MARGIN,
        "right of": across > _SIDE_MARGIN,
        "in front of": behind < -_DEPTH_MARGIN and abs(across) < 0.5,
        "behind": behind > _DEPTH_MARGIN and abs(across) < 0.5,
        "on top of": True,
    }[relation.name]
