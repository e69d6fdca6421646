"""The fifteen toys, each of at most six closed-form parts; fronts look along -y, bases are z = 0."""

from dataclasses import dataclass
from typing import Final

from m4v.toybox.palette import Triple

SPHERE: Final = 0
BOX: Final = 1
FRUSTUM: Final = 2
CAPSULE: Final = 3

PLAIN: Final = 0
STRIPES: Final = 1
CHECKS: Final = 2
GLASS: Final = 3
FACE: Final = 4
SPOTS: Final = 5
BANDS: Final = 6
WINDOWS: Final = 7
PORTHOLE: Final = 8
LIGHTS: Final = 9

Vector = tuple[float, float, float]

_RUBBER: Final = (0.10, 0.10, 0.11)
_STEEL: Final = (0.72, 0.74, 0.78)
_BARK: Final = (0.36, 0.24, 0.15)
_CREAM: Final = (0.95, 0.90, 0.80)
_CARROT: Final = (1.00, 0.48, 0.08)
_SLATE: Final = (0.26, 0.25, 0.30)
_LAMP: Final = (1.00, 0.93, 0.55)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One closed-form solid of a toy.

    Attributes:
        shape: SPHERE (unit ball above z = `param`), BOX (unit cube), FRUSTUM (|z| <= 1, bottom radius 1, top radius
            `param`) or CAPSULE (radius 1, axis |z| <= `param`), stretched by `half` and turned by `tilt`.
        tilt: Rotations in degrees about x, then y, then z.
        flatten: Factor of the height after the tilt.
        tint: sRGB colour; None takes the colour and material of the toy.
    """

    shape: int
    centre: Vector
    half: Vector
    param: float = 0.0
    tilt: Vector = (0.0, 0.0, 0.0)
    flatten: float = 1.0
    tint: Triple | None = None
    texture: int = PLAIN


@dataclass(frozen=True, kw_only=True)
class Model:
    """A toy: parts, height, radius of its footprint, and how it behaves.

    Attributes:
        radius: Distance that other toys should keep from its axis.
        verb: "roll", "drive" or "slide" along the ground.
        is_round: Looks alike from every side (a spin is visible only on checks).
        top: Height of a flat top that can carry another toy, else None.
        view_yaw: Turn in degrees that shows the toy at its best when it is not heading anywhere.
    """

    parts: tuple[Part, ...]
    height: float
    radius: float
    verb: str = "slide"
    is_round: bool = False
    top: float | None = None
    view_yaw: float = 0.0


def _ball(
    centre: Vector, radius: float, *, cut: float = -1.0, tint: Triple | None = None, texture: int = PLAIN
) -> Part:
    return Part(shape=SPHERE, centre=centre, half=(radius,) * 3, param=cut, tint=tint, texture=texture)


def _egg(centre: Vector, half: Vector, *, tilt: Vector = (0, 0, 0), texture: int = PLAIN) -> Part:
    return Part(shape=SPHERE, centre=centre, half=half, param=-1.0, tilt=tilt, texture=texture)


def _box(
    centre: Vector, half: Vector, *, tilt: Vector = (0, 0, 0), tint: Triple | None = None, texture: int = PLAIN
) -> Part:
    return Part(shape=BOX, centre=centre, half=half, tilt=tilt, tint=tint, texture=texture)


def _frustum(
    centre: Vector,
    radius: float,
    half_height: float,
    *,
    top: float = 1.0,
    tilt: Vector = (0, 0, 0),
    tint: Triple | None = None,
    texture: int = PLAIN,
) -> Part:
    half = (radius, radius, half_height)
    return Part(shape=FRUSTUM, centre=centre, half=half, param=top, tilt=tilt, tint=tint, texture=texture)


def _wheels(x: float, front: float, back: float, radius: float) -> tuple[Part, ...]:
    return tuple(
        _frustum((side * x, y, radius), radius, 0.11, tilt=(0, 90, 0), tint=_RUBBER)
        for side in (-1, 1)
        for y in (front, back)
    )


MODELS: Final[dict[str, Model]] = {
    "ball": Model(parts=(_ball((0, 0, 0.74), 0.74),), height=1.48, radius=0.74, verb="roll", is_round=True),
    "cube": Model(parts=(_box((0, 0, 0.62), (0.62,) * 3),), height=1.24, radius=0.85, top=1.24, view_yaw=32),
    "cylinder": Model(parts=(_frustum((0, 0, 0.76), 0.56, 0.76),), height=1.52, radius=0.56, is_round=True, top=1.52),
    "cone": Model(parts=(_frustum((0, 0, 0.84), 0.78, 0.84, top=0.0),), height=1.68, radius=0.78, is_round=True),
    "car": Model(
        parts=(
            _box((0, 0, 0.50), (0.56, 1.02, 0.28), texture=LIGHTS),
            Part(shape=FRUSTUM, centre=(0, 0.10, 1.00), half=(0.52, 0.72, 0.27), param=0.72, texture=GLASS),
            *_wheels(0.53, -0.60, 0.60, 0.30),
        ),
        height=1.27,
        radius=1.0,
        verb="drive",
        view_yaw=58,
    ),
    "truck": Model(
        parts=(
            _box((0, -0.78, 0.78), (0.50, 0.36, 0.52), texture=GLASS),
            _box((0, 0.38, 0.92), (0.56, 0.74, 0.66)),
            *_wheels(0.53, -0.72, 0.62, 0.28),
        ),
        height=1.58,
        radius=1.05,
        verb="drive",
        view_yaw=58,
    ),
    "tree": Model(
        parts=(
            _frustum((0, 0, 0.36), 0.19, 0.36, top=0.75, tint=_BARK),
            _ball((0, 0, 1.18), 0.60),
            _ball((-0.42, -0.05, 1.00), 0.40),
            _ball((0.42, -0.08, 1.02), 0.42),
            _ball((0.06, -0.02, 1.58), 0.40),
        ),
        height=1.98,
        radius=0.80,
    ),
    "house": Model(
        parts=(
            _box((0, 0, 0.50), (0.78, 0.62, 0.50), texture=WINDOWS),
            Part(shape=BOX, centre=(0, 0, 0.98), half=(0.66, 0.70, 0.66), tilt=(0, 45, 0), flatten=0.58, tint=_SLATE),
            _box((0.42, 0.20, 1.36), (0.10, 0.10, 0.24), tint=_BARK),
            _box((0, -0.62, 0.30), (0.14, 0.03, 0.30), tint=_BARK),
        ),
        height=1.60,
        radius=1.0,
        view_yaw=28,
    ),
    "snowman": Model(
        parts=(
            _ball((0, 0, 0.52), 0.55),
            _ball((0, 0, 1.18), 0.40),
            _ball((0, 0, 1.66), 0.29, texture=FACE),
            _frustum((0, -0.42, 1.66), 0.07, 0.17, top=0.0, tilt=(90, 0, 0), tint=_CARROT),
            _frustum((0, 0, 1.88), 0.32, 0.025, tint=_RUBBER),
            _frustum((0, 0, 2.02), 0.20, 0.15, tint=_RUBBER),
        ),
        height=2.17,
        radius=0.6,
        view_yaw=15,
    ),
    "duck": Model(
        parts=(
            _egg((0, 0.10, 0.50), (0.52, 0.76, 0.50)),
            _ball((0, -0.46, 1.18), 0.40, texture=FACE),
            _frustum((0, -0.90, 1.12), 0.20, 0.16, top=0.35, tilt=(90, 0, 0), tint=_CARROT),
            _frustum((0, 0.82, 0.74), 0.26, 0.28, top=0.1, tilt=(-55, 0, 0)),
            _egg((-0.50, 0.16, 0.56), (0.12, 0.40, 0.26), tilt=(-12, 0, 0)),
            _egg((0.50, 0.16, 0.56), (0.12, 0.40, 0.26), tilt=(-12, 0, 0)),
        ),
        height=1.58,
        radius=0.8,
        view_yaw=50,
    ),
    "robot": Model(
        parts=(
            _box((0, 0, 0.85), (0.44, 0.32, 0.40)),
            _box((0, 0, 1.52), (0.34, 0.29, 0.25), texture=FACE),
            Part(shape=CAPSULE, centre=(-0.58, 0, 0.86), half=(0.11, 0.11, 0.11), param=2.4, tint=_STEEL),
            Part(shape=CAPSULE, centre=(0.58, 0, 0.86), half=(0.11, 0.11, 0.11), param=2.4, tint=_STEEL),
            _frustum((-0.22, 0, 0.23), 0.15, 0.23, tint=_STEEL),
            _frustum((0.22, 0, 0.23), 0.15, 0.23, tint=_STEEL),
        ),
        height=1.77,
        radius=0.7,
        view_yaw=20,
    ),
    "rocket": Model(
        parts=(
            _frustum((0, 0, 0.92), 0.38, 0.66, texture=PORTHOLE),
            _frustum((0, 0, 1.90), 0.38, 0.34, top=0.0, tint=_CREAM),
            _box((0, 0, 0.40), (0.74, 0.05, 0.30), tint=_SLATE),
            _box((0, 0, 0.40), (0.05, 0.74, 0.30), tint=_SLATE),
            _frustum((0, 0, 0.16), 0.30, 0.13, top=0.7, tint=_STEEL),
        ),
        height=2.24,
        radius=0.7,
        view_yaw=30,
    ),
    "boat": Model(
        parts=(
            Part(shape=SPHERE, centre=(0, 0, 0.52), half=(0.50, 1.05, 0.52), param=0.0, tilt=(180, 0, 0)),
            _frustum((0, 0, 1.18), 0.05, 0.70, tint=_BARK),
            Part(shape=FRUSTUM, centre=(0, 0.10, 1.26), half=(0.03, 0.62, 0.56), tint=_CREAM),
        ),
        height=1.88,
        radius=1.0,
        view_yaw=65,
    ),
    "lighthouse": Model(
        parts=(
            _frustum((0, 0, 0.78), 0.48, 0.78, top=0.62, texture=BANDS),
            _frustum((0, 0, 1.59), 0.40, 0.04, tint=_SLATE),
            _frustum((0, 0, 1.78), 0.21, 0.16, tint=_LAMP),
            _frustum((0, 0, 2.08), 0.32, 0.14, top=0.05, tint=_SLATE),
        ),
        height=2.22,
        radius=0.5,
        is_round=True,
    ),
    "mushroom": Model(
        parts=(
            _frustum((0, 0, 0.40), 0.32, 0.40, top=0.75, tint=_CREAM),
            Part(shape=SPHERE, centre=(0, 0, 0.70), half=(0.86, 0.86, 0.78), param=0.0, texture=SPOTS),
        ),
        height=1.48,
        radius=0.86,
    ),
}
