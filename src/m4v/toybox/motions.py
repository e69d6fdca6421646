"""What the motions do: the place, turn and stretch of every object in every frame of a clip."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox.models import MODELS
from m4v.toybox.records import MotionStep, Scene, SceneObject

Series = Float[np.ndarray, "t"]

HEADINGS: Final[dict[str, tuple[float, float]]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "toward": (0.0, -1.0),
    "away": (0.0, 1.0),
}
"""Direction of every travel motion on the ground."""

FACING_KINDS: Final = ("car", "truck", "duck", "robot", "boat")
"""Toys that look where they go."""

JUMPS_PER_SECOND: Final = 1.0
BOUNCES_PER_SECOND: Final = 1.5
SWAYS_PER_SECOND: Final = 0.75
CONTACT: Final = 0.5
"""Share of a bump's time at which the two touch."""
_PUSH: Final = 0.45
_RECOIL: Final = 0.18


@dataclass(frozen=True, kw_only=True)
class Poses:
    """Placement of every object in every frame.

    Attributes:
        position: World place of the middle of the base.
        rotation: Model axes to world axes.
        scale: Stretch along the model's axes, applied before the rotation.
        centre: World place of the middle of the object.
    """

    position: Float[np.ndarray, "t n 3"]
    rotation: Float[np.ndarray, "t n 3 3"]
    scale: Float[np.ndarray, "t n 3"]
    centre: Float[np.ndarray, "t n 3"]


@dataclass(frozen=True, kw_only=True)
class _Move:
    """Change since the start of a step: offsets, turn, lean, vertical stretch, and growth (ratio)."""

    x: Series
    y: Series
    z: Series
    yaw: Series
    lean: Series
    stretch: Series
    growth: Series


def heading_yaw(name: str) -> float:
    """Return the yaw that faces the direction of the travel motion `name`."""
    x, y = HEADINGS[name]
    return float(np.arctan2(x, -y))


def _move(progress: Series, **changes: Series) -> _Move:
    zero, one = np.zeros_like(progress), np.ones_like(progress)
    defaults = {field.name: one if field.name in ("stretch", "growth") else zero for field in fields(_Move)}
    return _Move(**{**defaults, **changes})


def _smooth(value: Series) -> Series:
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def _travel(progress: Series, amount: float, name: str) -> _Move:
    x, y = HEADINGS[name]
    distance = amount * progress
    return _move(progress, x=x * distance, y=y * distance)


def _jump(progress: Series, amount: float, seconds: float) -> _Move:
    """Crouch, leap, land softly; a whole number of times."""
    phase = (progress * max(1, round(seconds * JUMPS_PER_SECOND))) % 1.0
    flight = np.clip((phase - 0.15) / 0.70, 0.0, 1.0)
    height = amount * 4.0 * flight * (1.0 - flight)
    crouch = np.maximum(1.0 - np.abs(phase - 0.08) / 0.08, 0.0) + np.maximum(1.0 - np.abs(phase - 0.92) / 0.08, 0.0)
    rush = np.abs(1.0 - 2.0 * flight) * ((flight > 0.0) & (flight < 1.0))
    return _move(progress, z=height, stretch=1.0 - 0.22 * crouch + 0.10 * rush)


def _bounce(progress: Series, amount: float, seconds: float) -> _Move:
    phase = (progress * max(1, round(seconds * BOUNCES_PER_SECOND))) % 1.0
    height = amount * 4.0 * phase * (1.0 - phase)
    contact = np.maximum(1.0 - height / (0.25 * amount), 0.0)
    return _move(progress, z=height, stretch=1.0 - 0.30 * contact)


def _fall(progress: Series, amount: float) -> _Move:
    drop = np.maximum(1.0 - (progress / 0.45) ** 2, 0.0)
    hop = np.clip((progress - 0.45) / 0.30, 0.0, 1.0)
    landing = np.maximum(1.0 - np.abs(progress - 0.47) / 0.06, 0.0)
    return _move(progress, z=amount * (drop + 0.14 * 4.0 * hop * (1.0 - hop)), stretch=1.0 - 0.25 * landing)


def _circle(progress: Series, amount: float, offset: tuple[float, float]) -> _Move:
    angle = 2.0 * np.pi * amount * progress
    x, y = offset
    return _move(
        progress,
        x=x * np.cos(angle) - y * np.sin(angle) - x,
        y=x * np.sin(angle) + y * np.cos(angle) - y,
        yaw=angle,
    )


def _bump(progress: Series, amount: float, direction: tuple[float, float]) -> _Move:
    approach = np.minimum(progress / CONTACT, 1.0)
    back = _RECOIL * _smooth((progress - CONTACT) / 0.25)
    distance = amount * approach - back
    return _move(progress, x=direction[0] * distance, y=direction[1] * distance)


def _reaction(progress: Series, direction: tuple[float, float]) -> _Move:
    late = np.clip((progress - CONTACT) / (1.0 - CONTACT), 0.0, 1.0)
    distance = _PUSH * (1.0 - (1.0 - late) ** 3)
    lean = 0.22 * np.sin(6.0 * np.pi * late) * np.exp(-3.0 * late)
    return _move(progress, x=direction[0] * distance, y=direction[1] * distance, lean=lean)


def _alone(name: str) -> Callable[[Series, float, float], _Move]:
    """Return the move of a motion that involves no other object, as a function of progress, amount and seconds."""
    moves: dict[str, Callable[[Series, float, float], _Move]] = {
        "still": lambda progress, amount, seconds: _move(progress),
        "bounces": _bounce,
        "jumps": _jump,
        "falls": lambda progress, amount, seconds: _fall(progress, amount),
        "spins": lambda progress, amount, seconds: _move(progress, yaw=2.0 * np.pi * amount * progress),
        "rises": lambda progress, amount, seconds: _move(progress, z=amount * _smooth(progress)),
        "sways": lambda progress, amount, seconds: _move(
            progress, lean=amount * np.sin(2.0 * np.pi * max(1, round(seconds * SWAYS_PER_SECOND)) * progress)
        ),
        "grows": lambda progress, amount, seconds: _move(progress, growth=1.0 + (amount - 1.0) * progress),
        "shrinks": lambda progress, amount, seconds: _move(progress, growth=1.0 + (amount - 1.0) * progress),
    }
    return moves[name]


def direction_to(subject: SceneObject, target: SceneObject) -> tuple[float, float]:
    """Return the unit direction on the ground from one object's start to another's."""
    x, y = target.position[0] - subject.position[0], target.position[1] - subject.position[1]
    length = max(float(np.hypot(x, y)), 1e-6)
    return x / length, y / length


def _step_move(scene: Scene, index: int, step: MotionStep, progress: Series, seconds: float) -> _Move:
    subject = scene.objects[index]
    if step.name in HEADINGS:
        return _travel(progress, step.amount, step.name)
    if step.target is None:
        return _alone(step.name)(progress, step.amount, seconds)
    target = scene.objects[step.target]
    match step.name:
        case "circles":
            offset = (subject.position[0] - target.position[0], subject.position[1] - target.position[1])
            return _circle(progress, step.amount, offset)
        case "chases":
            leader = next((s for s in target.motions if s.name in HEADINGS), None)
            assert leader is not None, "a chased object travels"
            return _travel(progress, leader.amount * step.amount, leader.name)
        case "bumps":
            return _bump(progress, step.amount, direction_to(subject, target))
    raise AssertionError(f"unknown motion {step.name}")


def _pushed_by(scene: Scene, index: int) -> tuple[float, float] | None:
    for other in scene.objects:
        for step in other.motions:
            if step.name == "bumps" and step.target == index:
                return direction_to(other, scene.objects[index])
    return None


def _object_move(scene: Scene, index: int, num_frames: int) -> _Move:
    subject = scene.objects[index]
    seconds = scene.num_frames / scene.fps
    progress = np.linspace(0.0, 1.0, num_frames)
    if not subject.motions:
        push = _pushed_by(scene, index)
        return _move(progress) if push is None else _reaction(progress, push)
    parts: list[_Move] = []
    steps = len(subject.motions)
    before = {"x": 0.0, "y": 0.0, "z": 0.0, "yaw": 0.0, "growth": 1.0}
    for number, step in enumerate(subject.motions):
        local = progress * steps - number
        mine = (local >= 0.0) & ((local < 1.0) | (number == steps - 1))
        # The end of the step is evaluated too: the next step starts from there.
        move = _step_move(scene, index, step, np.append(local[mine], 1.0), seconds / steps)
        turn = _turn_into(subject, step, before["yaw"], np.append(local[mine], 1.0)) if number else 0.0
        whole = _Move(
            x=move.x + before["x"],
            y=move.y + before["y"],
            z=move.z + before["z"],
            yaw=move.yaw + before["yaw"] + turn,
            lean=move.lean,
            stretch=move.stretch,
            growth=move.growth * before["growth"],
        )
        before = {name: float(getattr(whole, name)[-1]) for name in before}
        parts.append(whole)
    return _Move(**{f.name: np.concatenate([getattr(part, f.name)[:-1] for part in parts]) for f in fields(_Move)})


def _turn_into(subject: SceneObject, step: MotionStep, yaw_before: float, progress: Series) -> Series | float:
    """Turn a toy that looks where it goes into the direction of its second step."""
    if step.name not in HEADINGS or subject.kind not in FACING_KINDS:
        return 0.0
    turn = heading_yaw(step.name) - (subject.yaw + yaw_before)
    turn = (turn + np.pi) % (2.0 * np.pi) - np.pi
    return turn * _smooth(progress / 0.3)


def _about(axis: int, angle: Series) -> Float[np.ndarray, "t 3 3"]:
    """Return rotation matrices about a world axis."""
    matrix = np.zeros((len(angle), 3, 3))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[:, axis, axis] = 1.0
    matrix[:, first, first] = matrix[:, second, second] = cosine
    matrix[:, first, second], matrix[:, second, first] = -sine, sine
    return matrix


def animate(scene: Scene, num_frames: int) -> Poses:
    """Return the placement of every object in `num_frames` frames that span the clip."""
    positions, rotations, scales, centres = [], [], [], []
    for index, item in enumerate(scene.objects):
        model = MODELS[item.kind]
        move = _object_move(scene, index, num_frames)
        size = item.scale * move.growth
        widening = 1.0 / np.sqrt(move.stretch)
        scale = np.stack([size * widening, size * widening, size * move.stretch], axis=1)
        ground = np.asarray(item.position) + np.stack([move.x, move.y, move.z], axis=1)
        rotation = _about(2, item.yaw + move.yaw)
        middle = np.stack([np.zeros_like(size), np.zeros_like(size), 0.5 * model.height * scale[:, 2]], axis=1)
        position, lean = ground, _about(1, move.lean)
        if model.verb == "roll":
            radius = 0.5 * model.height * size
            rotation = _about(0, -move.y / radius) @ _about(1, move.x / radius) @ rotation
            position = ground + middle - np.einsum("tij,tj->ti", rotation, middle)
        rotation = lean @ rotation
        positions.append(position)
        rotations.append(rotation)
        scales.append(scale)
        centres.append(position + np.einsum("tij,tj->ti", rotation, middle))
    return Poses(
        position=np.stack(positions, axis=1),
        rotation=np.stack(rotations, axis=1),
        scale=np.stack(scales, axis=1),
        centre=np.stack(centres, axis=1),
    )
