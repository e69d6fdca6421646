"""The camera of a scene: where it stands in every frame and where a point of the world falls in the picture."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox.records import Scene

TAN_HALF_VIEW: Final = float(np.tan(np.radians(25.0)))
"""Tangent of half the field of view."""

_HEIGHT_PER_DISTANCE: Final = 0.63
_HORIZON: Final = 0.64
"""Height of the horizon in the upper half of the picture: 0 the middle, 1 the upper edge."""
_AIM_HEIGHT: Final = 0.7


@dataclass(frozen=True, kw_only=True)
class CameraTrack:
    """Camera of every frame: place and orthonormal directions, in world axes."""

    eye: Float[np.ndarray, "t 3"]
    right: Float[np.ndarray, "t 3"]
    up: Float[np.ndarray, "t 3"]
    forward: Float[np.ndarray, "t 3"]

    def project(
        self, points: Float[np.ndarray, "t n 3"]
    ) -> tuple[Float[np.ndarray, "t n 2"], Float[np.ndarray, "t n"]]:
        """Return picture coordinates (-1..1, x to the right, y down) and depths of world points.

        A track of one frame serves any number of frames of points.
        """
        ray = points - self.eye[:, None]
        depth = np.maximum((ray * self.forward[:, None]).sum(axis=2), 1e-3)
        across = (ray * self.right[:, None]).sum(axis=2)
        above = (ray * self.up[:, None]).sum(axis=2)
        return np.stack([across, -above], axis=-1) / (depth * TAN_HALF_VIEW)[..., None], depth

    def packed(self) -> Float[np.ndarray, "t 12"]:
        """Return eye, right and up (scaled to half the picture) and forward, side by side, for the kernels."""
        return np.concatenate([self.eye, self.right * TAN_HALF_VIEW, self.up * TAN_HALF_VIEW, self.forward], axis=1)


def camera_track(scene: Scene, num_frames: int) -> CameraTrack:
    """Place the camera in `num_frames` frames that span the clip."""
    progress = np.linspace(0.0, 1.0, num_frames)
    around = np.zeros(num_frames)
    turn = np.zeros(num_frames)
    distance = np.full(num_frames, scene.camera_distance)
    lift = np.zeros(num_frames)
    swing = scene.camera_amount * (progress - 0.5)
    match scene.camera:
        case "pans left":
            turn = -swing
        case "pans right":
            turn = swing
        case "orbits":
            around = swing
        case "moves closer":
            distance = distance * (1.0 + 0.4 * scene.camera_amount - scene.camera_amount * progress)
        case "pulls back":
            distance = distance * (1.0 - 0.6 * scene.camera_amount + scene.camera_amount * progress)
        case "rises":
            lift = scene.camera_distance * scene.camera_amount * progress
    height = _HEIGHT_PER_DISTANCE * distance + lift
    eye = np.stack([distance * np.sin(around), -distance * np.cos(around), height], axis=1)
    pitch = np.arctan(_HORIZON * TAN_HALF_VIEW)
    if scene.camera == "rises":
        level_height = _HEIGHT_PER_DISTANCE * distance
        pitch = (
            pitch + np.arctan((height - _AIM_HEIGHT) / distance) - np.arctan((level_height - _AIM_HEIGHT) / distance)
        )
    pitch = np.broadcast_to(pitch, (num_frames,))
    azimuth = turn - around
    forward = np.stack([np.sin(azimuth) * np.cos(pitch), np.cos(azimuth) * np.cos(pitch), -np.sin(pitch)], axis=1)
    right = np.stack([np.cos(azimuth), -np.sin(azimuth), np.zeros(num_frames)], axis=1)
    return CameraTrack(eye=eye, right=right, up=np.cross(right, forward), forward=forward)
