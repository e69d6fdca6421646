"""Typed records of a toybox scene: the one source of pictures, captions and labels.

World axes: x to the right, y away from the camera at frame 0, z up; the ground is z = 0. Lengths are world units.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MotionStep:
    """One thing an object does.

    Attributes:
        name: Entry of `axes.MOTIONS`.
        target: Index of the other object for circles, chases and bumps.
        amount: Distance, height, turns, angle or growth, as the motion needs (see `motions`).
    """

    name: str
    target: int | None = None
    amount: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object: what it is, where it starts (`position` of the middle of its base) and what it does.

    Attributes:
        motions: One step, or two that follow each other; empty for an object that only reacts to a bump.
        yaw: Turn about the vertical at frame 0, in radians; 0 faces the camera.
        scale: Size relative to its model.
    """

    kind: str
    colour: str
    material: str
    size: str
    motions: tuple[MotionStep, ...]
    position: tuple[float, float, float]
    yaw: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class Relation:
    """`subject` stands `name` (entry of `axes.RELATIONS`) `target` at frame 0, seen from the camera."""

    name: str
    subject: int
    target: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything a clip shows.

    Attributes:
        fps: Frames per second.
        camera_amount: Angle in radians or relative distance of the camera's move, always positive.
        sky_tint: Backdrop index of the studio.
        sun_height: Elevation of the light in radians.
        backdrop: Offsets (two of the ground texture, one of the clouds), in world units.
        clouds: Cover of the sky in [0, 1].
    """

    tier: str
    num_frames: int
    fps: int
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    camera: str
    camera_amount: float
    camera_distance: float
    ground: str
    sky: str
    sky_tint: int
    light: str
    sun_height: float
    backdrop: tuple[float, float, float]
    clouds: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types (tuples become lists when dumped)."""
        return asdict(self)

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> "Scene":
        """Build the record that `to_json` wrote."""
        objects = tuple(
            SceneObject(
                **{
                    **item,
                    "motions": tuple(MotionStep(**step) for step in item["motions"]),
                    "position": tuple(item["position"]),
                }
            )
            for item in mapping["objects"]
        )
        relations = tuple(Relation(**item) for item in mapping["relations"])
        backdrop = tuple(mapping["backdrop"])
        return cls(**{**mapping, "objects": objects, "relations": relations, "backdrop": backdrop})
