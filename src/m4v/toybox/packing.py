"""Scenes as plain arrays for the ray tracer: parts, bounding spheres, cameras, light and backdrop."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox import axes, kernels, models, palette
from m4v.toybox.camera import CameraTrack
from m4v.toybox.models import MODELS, Part
from m4v.toybox.motions import Poses
from m4v.toybox.records import Scene, SceneObject


@dataclass(frozen=True, kw_only=True)
class PackedScene:
    """Arguments of the kernels: parts and objects per frame, camera per frame, and the world vector."""

    parts: Float[np.ndarray, "t p 26"]
    objects: Float[np.ndarray, "t n 6"]
    cameras: Float[np.ndarray, "t 12"]
    world: Float[np.ndarray, "36"]


@dataclass(frozen=True, kw_only=True)
class _Sky:
    """Light of one sky, sRGB-free linear values; the sun's brightness is in its colour."""

    zenith: palette.Triple
    horizon: palette.Triple
    sun: palette.Triple
    ambient_up: palette.Triple
    glow: palette.Triple
    fog: float = 0.045


_SKIES: Final[dict[str, _Sky]] = {
    "clear day": _Sky(
        zenith=(0.12, 0.32, 0.80),
        horizon=(0.62, 0.78, 0.92),
        sun=(0.90, 0.83, 0.69),
        ambient_up=(0.28, 0.34, 0.44),
        glow=(0.10, 0.07, 0.02),
    ),
    "sunset": _Sky(
        zenith=(0.22, 0.17, 0.46),
        horizon=(0.84, 0.46, 0.30),
        sun=(1.00, 0.70, 0.46),
        ambient_up=(0.38, 0.34, 0.42),
        glow=(0.26, 0.18, 0.02),
    ),
    "night": _Sky(
        zenith=(0.008, 0.014, 0.060),
        horizon=(0.045, 0.070, 0.18),
        sun=(0.42, 0.46, 0.56),
        ambient_up=(0.20, 0.22, 0.31),
        glow=(0.01, 0.01, 0.02),
    ),
    "overcast": _Sky(
        zenith=(0.42, 0.46, 0.52),
        horizon=(0.68, 0.71, 0.75),
        sun=(0.28, 0.28, 0.27),
        ambient_up=(0.66, 0.68, 0.72),
        glow=(0.0, 0.0, 0.0),
    ),
    "studio": _Sky(
        zenith=(0.0, 0.0, 0.0),
        horizon=(0.0, 0.0, 0.0),
        sun=(0.80, 0.78, 0.74),
        ambient_up=(0.50, 0.50, 0.50),
        glow=(0.06, 0.06, 0.06),
        fog=0.06,
    ),
}

_BEVEL: Final = 0.12


def pack(scene: Scene, poses: Poses, camera: CameraTrack) -> PackedScene:
    """Place every part of every object in every frame."""
    columns, bounds, start = [], [], 0
    for index, item in enumerate(scene.objects):
        parts = MODELS[item.kind].parts
        placed = _place(item, index, poses)
        columns.append(placed)
        centres = placed[:, :, kernels.CENTRE : kernels.CENTRE + 3]
        radii = np.sqrt(placed[:, :, kernels.BOUND])
        middle = centres.mean(axis=1)
        reach = (np.linalg.norm(centres - middle[:, None], axis=2) + radii).max(axis=1)
        span = np.broadcast_to(np.array([start, start + len(parts)], dtype=np.float64), (len(middle), 2))
        bounds.append(np.concatenate([middle, reach[:, None], span], axis=1))
        start += len(parts)
    return PackedScene(
        parts=np.concatenate(columns, axis=1),
        objects=np.stack(bounds, axis=1),
        cameras=camera.packed(),
        world=_world(scene),
    )


def _place(item: SceneObject, index: int, poses: Poses) -> Float[np.ndarray, "t p 26"]:
    shape = _model_matrices(item.kind)
    looks = _looks(item.kind, item.colour, item.material)
    frames = len(poses.position)
    body = poses.rotation[:, index] * poses.scale[:, index, None, :]
    matrices = body[:, None] @ shape.matrices
    placed = np.empty((frames, len(looks), kernels.PART_COLUMNS))
    placed[:] = looks
    placed[..., kernels.INVERSE : kernels.INVERSE + 9] = np.linalg.inv(matrices).reshape(frames, -1, 9)
    placed[..., kernels.CENTRE : kernels.CENTRE + 3] = (
        np.einsum("tij,pj->tpi", body, shape.centres) + poses.position[:, index, None]
    )
    placed[..., kernels.BOUND] = (shape.bounds(matrices) * 1.001) ** 2
    placed[..., kernels.OWNER] = index + 1
    return placed


@dataclass(frozen=True)
class _ModelMatrices:
    matrices: Float[np.ndarray, "p 3 3"]
    centres: Float[np.ndarray, "p 3"]
    parts: tuple[Part, ...]

    def bounds(self, matrices: Float[np.ndarray, "t p 3 3"]) -> Float[np.ndarray, "t p"]:
        """Return radii of spheres around the placed parts, from the products of their stretched axes."""
        products = np.abs(matrices.swapaxes(2, 3) @ matrices)
        radii = []
        for number, part in enumerate(self.parts):
            product = products[:, number]
            # The largest row sum bounds the largest eigenvalue; exact while the axes stay at right angles.
            ball = product.sum(axis=2).max(axis=1)
            if part.shape == models.BOX:
                square = product.sum(axis=(1, 2))
            elif part.shape == models.FRUSTUM:
                disc = product[:, :2, :2].sum(axis=2).max(axis=1)
                square = disc + product[:, 2, 2] + 2.0 * (product[:, 0, 2] + product[:, 1, 2])
            elif part.shape == models.CAPSULE:
                square = (np.sqrt(ball) + part.param * np.sqrt(product[:, 2, 2])) ** 2
            else:
                square = ball
            radii.append(np.sqrt(square))
        return np.stack(radii, axis=1)


@cache
def _model_matrices(kind: str) -> _ModelMatrices:
    parts = MODELS[kind].parts
    matrices = np.stack([_shape_matrix(part) for part in parts])
    return _ModelMatrices(matrices, np.asarray([part.centre for part in parts], dtype=np.float64), parts)


def _shape_matrix(part: Part) -> Float[np.ndarray, "3 3"]:
    return np.diag([1.0, 1.0, part.flatten]) @ _tilt(part.tilt) @ np.diag(part.half)


def _tilt(degrees: models.Vector) -> Float[np.ndarray, "3 3"]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@cache
def _looks(kind: str, colour: str, material: str) -> Float[np.ndarray, "p 26"]:
    """Return part rows without placement: solid, colours, texture and finish."""
    rows = np.zeros((len(MODELS[kind].parts), kernels.PART_COLUMNS))
    paint = palette.to_linear(palette.COLOURS[colour])
    white = palette.to_linear((0.95, 0.94, 0.90))
    dark = colour in ("white", "yellow")
    for row, part in zip(rows, MODELS[kind].parts, strict=True):
        row[kernels.SHAPE], row[kernels.PARAM] = part.shape, part.param
        row[kernels.COLOUR : kernels.COLOUR + 3] = paint if part.tint is None else palette.to_linear(part.tint)
        row[kernels.SECOND : kernels.SECOND + 3] = white
        row[kernels.TEXTURE] = part.texture
        row[kernels.GLOSS] = 0.11 if part.tint is None else 0.06
        row[kernels.BEVEL] = _BEVEL
        if part.tint is not None:
            continue
        if part.texture == models.BANDS and colour == "white":
            row[kernels.SECOND : kernels.SECOND + 3] = palette.to_linear((0.35, 0.37, 0.42))
        if part.texture == models.SPOTS and dark:
            row[kernels.SECOND : kernels.SECOND + 3] = palette.to_linear((0.55, 0.42, 0.30))
        match material:
            case "shiny":
                row[kernels.GLOSS], row[kernels.MIRROR] = 0.9, 0.12
            case "metal":
                row[kernels.GLOSS], row[kernels.MIRROR] = 0.7, 0.55
            case "striped" | "checkered":
                if part.texture == models.PLAIN:
                    row[kernels.TEXTURE] = models.STRIPES if material == "striped" else models.CHECKS
                    row[kernels.SECOND : kernels.SECOND + 3] = white * 0.9 if colour != "white" else white * 0.25
    return rows


def _world(scene: Scene) -> Float[np.ndarray, "36"]:
    sky = _SKIES[scene.sky]
    world = np.zeros(kernels.WORLD_SIZE)
    side = -1.0 if scene.light == "left" else 1.0
    level = np.cos(scene.sun_height)
    sun = np.array([side * 0.80 * level, -0.60 * level, np.sin(scene.sun_height)])
    zenith, horizon = np.asarray(sky.zenith), np.asarray(sky.horizon)
    if scene.sky == "studio":
        tint = palette.to_linear(palette.STUDIO_TINTS[scene.sky_tint])
        zenith, horizon = tint * 0.82, tint
    first, second = (palette.to_linear(tone) for tone in palette.GROUNDS[scene.ground])
    ambient = np.asarray(sky.ambient_up)
    bounce = 0.5 * (first + second) * (0.45 * np.asarray(sky.sun) + 0.35 * ambient)
    for start, value in (
        (kernels.SUN, sun),
        (kernels.SUN_COLOUR, sky.sun),
        (kernels.AMBIENT_UP, ambient),
        (kernels.AMBIENT_DOWN, 0.18 * ambient + bounce),
        (kernels.ZENITH, zenith),
        (kernels.HORIZON, horizon),
        (kernels.GLOW, sky.glow),
        (kernels.GROUND_FIRST, first),
        (kernels.GROUND_SECOND, second),
    ):
        world[start : start + 3] = value
    world[kernels.FOG] = sky.fog
    world[kernels.GROUND] = axes.GROUNDS.index(scene.ground)
    world[kernels.OFFSET : kernels.OFFSET + 2] = scene.backdrop[:2]
    world[kernels.CLOUDS], world[kernels.CLOUD_OFFSET] = scene.clouds, scene.backdrop[2]
    world[kernels.MOON] = float(scene.sky == "night")
    world[kernels.SUN_RADIUS] = 0.30 if scene.sky == "overcast" else 0.07
    return world


@cache
def noise_table() -> Float[np.ndarray, "64 64"]:
    """Return smooth periodic noise with values spread over [0, 1]."""
    rng = np.random.Generator(np.random.Philox(key=20250611))
    table = rng.random((64, 64))
    blurred = 0.5 * table + 0.125 * sum(np.roll(table, shift, axis) for shift in (-1, 1) for axis in (0, 1))
    low, high = blurred.min(), blurred.max()
    return (blurred - low) / (high - low)


@cache
def tone_curve() -> np.ndarray:
    """Return 8-bit display values of linear light in [0, 1]."""
    return np.round(255.0 * np.linspace(0.0, 1.0, 8192) ** (1.0 / 2.2)).astype(np.uint8)


@cache
def sample_grid(side: int) -> Float[np.ndarray, "n 2"]:
    """Return places within a pixel (0..1): a slightly turned grid, one diagonal pair first."""
    steps = (np.arange(side) + 0.5) / side
    down, across = np.meshgrid(steps, steps, indexing="ij")
    turn = 0.25 / side * (side > 1)
    sign = np.where(np.arange(side) % 2 == 0, 1.0, -1.0)
    grid = np.stack([across + turn * sign[:, None], down - turn * sign[None, :]], axis=-1).reshape(-1, 2)
    order = [0, side * side - 1, *range(1, side * side - 1)] if side > 1 else [0]
    return np.ascontiguousarray(grid[order])
