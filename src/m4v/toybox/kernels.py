"""The ray tracer: scalar loops compiled by numba, one clip per call, without the interpreter lock.

All compiled code lives in this file, because numba's disk cache notices changes of the calling file only. Scenes
arrive as plain arrays (see `packing`): a row per part, a row per object, and one vector for light and backdrop.
"""

from collections.abc import Callable
from math import exp, floor, sqrt
from typing import Any, Final, TypeVar

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from m4v.toybox import models

# Columns of a part.
SHAPE: Final = 0
PARAM: Final = 1
INVERSE: Final = 2
CENTRE: Final = 11
BOUND: Final = 14
COLOUR: Final = 15
SECOND: Final = 18
TEXTURE: Final = 21
MIRROR: Final = 22
GLOSS: Final = 23
OWNER: Final = 24
BEVEL: Final = 25
PART_COLUMNS: Final = 26

# Columns of an object: bounding sphere (middle, radius), first part, one past the last part.
OBJECT_COLUMNS: Final = 6

# Entries of the world vector.
SUN: Final = 0
SUN_COLOUR: Final = 3
AMBIENT_UP: Final = 6
AMBIENT_DOWN: Final = 9
ZENITH: Final = 12
HORIZON: Final = 15
GLOW: Final = 18
FOG: Final = 22
GROUND: Final = 23
GROUND_FIRST: Final = 24
GROUND_SECOND: Final = 27
OFFSET: Final = 30
CLOUDS: Final = 32
CLOUD_OFFSET: Final = 33
MOON: Final = 34
SUN_RADIUS: Final = 35
WORLD_SIZE: Final = 36

CHECKERED_FLOOR: Final = 0
GRASS: Final = 1
WOOD: Final = 2
SAND: Final = 3
SNOW: Final = 4
STONE: Final = 5
WATER: Final = 6

_FAR: Final = 1e9
_NEAR: Final = 1e-4

_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "fastmath": True, "error_model": "numpy"}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """Compile with numba; without its disk cache where no cache folder can be written."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        return numba.njit(**_OPTIONS)(function)


def _inlined(function: _Function) -> _Function:
    """Compile into each caller: for large functions called from few places, where passing arrays would cost time."""
    return numba.njit(inline="always", **_OPTIONS)(function)


@intrinsic
def _as_pointer(context, address):  # type: ignore[no-untyped-def]
    """Reinterpret an integer as an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), generate


@_compiled
def _borrow(array):  # type: ignore[no-untyped-def]
    """View an array without owning it: passing it on then costs no atomic count, which threads would share."""
    return numba.carray(_as_pointer(array.ctypes.data), array.shape, array.dtype)


@_compiled
def _hit_part(parts, k, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distance along the ray to part `k` in units of the direction's length; _FAR for a miss."""
    cx, cy, cz = ox - parts[k, CENTRE], oy - parts[k, CENTRE + 1], oz - parts[k, CENTRE + 2]
    # Bounding sphere first: most rays end here.
    along = -(cx * dx + cy * dy + cz * dz)
    if cx * cx + cy * cy + cz * cz - along * along > parts[k, BOUND]:
        return _FAR
    qx = parts[k, INVERSE] * cx + parts[k, INVERSE + 1] * cy + parts[k, INVERSE + 2] * cz
    qy = parts[k, INVERSE + 3] * cx + parts[k, INVERSE + 4] * cy + parts[k, INVERSE + 5] * cz
    qz = parts[k, INVERSE + 6] * cx + parts[k, INVERSE + 7] * cy + parts[k, INVERSE + 8] * cz
    ex = parts[k, INVERSE] * dx + parts[k, INVERSE + 1] * dy + parts[k, INVERSE + 2] * dz
    ey = parts[k, INVERSE + 3] * dx + parts[k, INVERSE + 4] * dy + parts[k, INVERSE + 5] * dz
    ez = parts[k, INVERSE + 6] * dx + parts[k, INVERSE + 7] * dy + parts[k, INVERSE + 8] * dz
    shape = int(parts[k, SHAPE])
    param = parts[k, PARAM]
    if shape == models.BOX:
        ix, iy, iz = 1.0 / ex, 1.0 / ey, 1.0 / ez
        ax, bx = (-1.0 - qx) * ix, (1.0 - qx) * ix
        ay, by = (-1.0 - qy) * iy, (1.0 - qy) * iy
        az, bz = (-1.0 - qz) * iz, (1.0 - qz) * iz
        enter = max(min(ax, bx), min(ay, by), min(az, bz))
        leave = min(max(ax, bx), max(ay, by), max(az, bz))
        if enter > leave or leave < _NEAR:
            return _FAR
        return enter if enter > _NEAR else leave
    if shape == models.SPHERE:
        a = ex * ex + ey * ey + ez * ez
        b = qx * ex + qy * ey + qz * ez
        disc = b * b - a * (qx * qx + qy * qy + qz * qz - 1.0)
        if disc < 0.0:
            return _FAR
        root = sqrt(disc)
        best = _FAR
        t = (-b - root) / a
        if t > _NEAR and qz + t * ez >= param:
            return t
        t = (-b + root) / a
        if t > _NEAR and qz + t * ez >= param:
            best = t
        if param > -1.0:
            t = (param - qz) / ez
            if _NEAR < t < best:
                x, y = qx + t * ex, qy + t * ey
                if x * x + y * y <= 1.0 - param * param:
                    best = t
        return best
    if shape == models.FRUSTUM:
        middle, slope = 0.5 * (1.0 + param), 0.5 * (param - 1.0)
        radius, change = middle + slope * qz, slope * ez
        best = _FAR
        a = ex * ex + ey * ey - change * change
        b = qx * ex + qy * ey - radius * change
        c = qx * qx + qy * qy - radius * radius
        disc = b * b - a * c
        if disc > 0.0 and abs(a) > 1e-12:
            root = sqrt(disc)
            for sign in (-1.0, 1.0):
                t = (-b + sign * root) / a
                if _NEAR < t < best:
                    z = qz + t * ez
                    if -1.0 <= z <= 1.0:
                        best = t
        for z in (-1.0, 1.0):
            t = (z - qz) / ez
            if _NEAR < t < best:
                x, y, r = qx + t * ex, qy + t * ey, middle + slope * z
                if x * x + y * y <= r * r:
                    best = t
        return best
    best = _FAR
    a = ex * ex + ey * ey
    b = qx * ex + qy * ey
    disc = b * b - a * (qx * qx + qy * qy - 1.0)
    if disc > 0.0:
        t = (-b - sqrt(disc)) / a
        if t > _NEAR and abs(qz + t * ez) <= param:
            best = t
    a += ez * ez
    for end in (-param, param):
        z = qz - end
        b = qx * ex + qy * ey + z * ez
        disc = b * b - a * (qx * qx + qy * qy + z * z - 1.0)
        if disc > 0.0:
            t = (-b - sqrt(disc)) / a
            if _NEAR < t < best:
                best = t
    return best


@_inlined
def _trace(parts, objects, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Nearest hit of a ray of unit direction: distance and row of the part (-1 for none)."""
    best, row = _FAR, -1
    for n in range(objects.shape[0]):
        cx, cy, cz = ox - objects[n, 0], oy - objects[n, 1], oz - objects[n, 2]
        along = -(cx * dx + cy * dy + cz * dz)
        radius = objects[n, 3]
        if along < -radius or cx * cx + cy * cy + cz * cz - along * along > radius * radius:
            continue
        for k in range(int(objects[n, 4]), int(objects[n, 5])):
            t = _hit_part(parts, k, ox, oy, oz, dx, dy, dz)
            if t < best:
                best, row = t, k
    return best, row


@_inlined
def _shadowed(parts, objects, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Whether anything lies between a point and the sun."""
    for n in range(objects.shape[0]):
        cx, cy, cz = ox - objects[n, 0], oy - objects[n, 1], oz - objects[n, 2]
        along = -(cx * dx + cy * dy + cz * dz)
        radius = objects[n, 3]
        if along < -radius or cx * cx + cy * cy + cz * cz - along * along > radius * radius:
            continue
        for k in range(int(objects[n, 4]), int(objects[n, 5])):
            if _hit_part(parts, k, ox, oy, oz, dx, dy, dz) < _FAR:
                return True
    return False


@_compiled
def _local_normal(parts, k, x, y, z):  # type: ignore[no-untyped-def]
    """Outward normal in the axes of the unit solid (not normalised)."""
    shape = int(parts[k, SHAPE])
    param = parts[k, PARAM]
    if shape == models.BOX:
        # Rounded towards the edges, so that boxes catch light like moulded toys.
        inner = 1.0 - parts[k, BEVEL]
        nx = max(abs(x) - inner, 0.0)
        ny = max(abs(y) - inner, 0.0)
        nz = max(abs(z) - inner, 0.0)
        if nx + ny + nz < 1e-9:
            nx, ny, nz = abs(x) ** 64, abs(y) ** 64, abs(z) ** 64
        return (nx if x > 0 else -nx), (ny if y > 0 else -ny), (nz if z > 0 else -nz)
    if shape == models.SPHERE:
        if param > -1.0 and abs(z - param) < 1e-5:
            return 0.0, 0.0, -1.0
        return x, y, z
    if shape == models.FRUSTUM:
        if z > 1.0 - 1e-5:
            return 0.0, 0.0, 1.0
        if z < -1.0 + 1e-5:
            return 0.0, 0.0, -1.0
        slope = 0.5 * (param - 1.0)
        return x, y, -slope * (0.5 * (1.0 + param) + slope * z)
    if z > param:
        return x, y, z - param
    if z < -param:
        return x, y, z + param
    return x, y, 0.0


@_compiled
def _pattern(parts, k, x, y, z):  # type: ignore[no-untyped-def]
    """Share of the second colour at a point of the unit solid; 2 marks glass."""
    texture = int(parts[k, TEXTURE])
    if texture == models.PLAIN:
        return 0.0
    shape = int(parts[k, SHAPE])
    if texture == models.STRIPES:
        return 1.0 if (z + 1.2) * 2.5 % 1.0 < 0.40 else 0.0
    if texture == models.CHECKS:
        if shape == models.BOX:
            odd = (x > 0) != ((y > 0) != (z > 0))
        else:
            # Sectors about the axis alternate between the two halves.
            odd = ((x > 0) != (y > 0)) != ((abs(x) > abs(y)) != (abs((z + 2.0) % 1.0) < 0.5))
        return 1.0 if odd else 0.0
    if texture == models.GLASS:
        if shape == models.BOX:
            return 2.0 if y < -0.2 and 0.15 < z < 0.75 and abs(z) < 0.97 else 0.0
        return 2.0 if abs(z + 0.12) < 0.62 else 0.0
    if texture == models.FACE:
        if y > -0.2:
            return 0.0
        far = 0.55 if shape == models.BOX else 0.42
        ex, ez = abs(x) - far, z - 0.22
        return 2.0 if ex * ex + ez * ez < 0.045 else 0.0
    if texture == models.SPOTS:
        if z < 0.02:
            return 1.0
        if x * x + y * y < 0.07:
            return 1.0
        # Five spots around the cap; (u, v) fold all of them onto one sector.
        for n in range(5):
            sx, sy = _SPOT_X[n], _SPOT_Y[n]
            u, v, w = x - sx, y - sy, z - 0.55
            if u * u + v * v + w * w < 0.065:
                return 1.0
        return 0.0
    if texture == models.BANDS:
        return 1.0 if (z + 1.0) * 1.25 % 1.0 > 0.5 else 0.0
    if texture == models.WINDOWS:
        wide = abs(abs(x) - 0.55) < 0.2 if abs(y) > 0.99 else abs(abs(y) - 0.5) < 0.25
        return 2.0 if wide and abs(z - 0.1) < 0.3 else 0.0
    if texture == models.LIGHTS:
        ex, ez = abs(x) - 0.62, z - 0.05
        return 1.0 if y < -0.9 and ex * ex + 0.25 * ez * ez < 0.05 else 0.0
    u, w = x, z - 0.35
    return 2.0 if y < 0.0 and u * u * 0.35 + w * w < 0.06 else 0.0


_SPOT_X: Final = tuple(0.80 * float(np.cos(2.0 * np.pi * (n + 0.25) / 5)) for n in range(5))
_SPOT_Y: Final = tuple(0.80 * float(np.sin(2.0 * np.pi * (n + 0.25) / 5)) for n in range(5))


@_compiled
def _noise(table, x, y):  # type: ignore[no-untyped-def]
    """Smooth periodic noise in [0, 1] read from a table, one entry per unit."""
    size = table.shape[0]
    ix, iy = floor(x), floor(y)
    fx, fy = x - ix, y - iy
    i, j = int(ix) % size, int(iy) % size
    i1, j1 = (i + 1) % size, (j + 1) % size
    low = table[j, i] + fx * (table[j, i1] - table[j, i])
    high = table[j1, i] + fx * (table[j1, i1] - table[j1, i])
    return low + fy * (high - low)


@_compiled
def _triangle(x, width):  # type: ignore[no-untyped-def]
    """Integral of a square wave of period 2 around x, averaged over `width`: a filtered checker."""
    a, b = (x - 0.5 * width) * 0.5, (x + 0.5 * width) * 0.5
    a, b = abs(a - floor(a) - 0.5), abs(b - floor(b) - 0.5)
    return 2.0 * (a - b) * 2.0 / width


@_inlined
def _ground_mix(world, table, x, y, distance):  # type: ignore[no-untyped-def]
    """Share of the ground's second tone; detail fades with distance before it can alias."""
    kind = int(world[GROUND])
    x, y = x + world[OFFSET], y + world[OFFSET + 1]
    fade = 1.0 / (1.0 + 0.012 * distance * distance)
    if kind == CHECKERED_FLOOR:
        wide = 0.004 * distance
        return 0.5 - 0.5 * _triangle(x, wide) * _triangle(y, wide + 0.003 * distance * distance)
    if kind == WOOD:
        board = floor(x * 1.1)
        grain = _noise(table, x * 9.0, y * 0.9 + board * 7.3)
        seam = abs(x * 1.1 - board - 0.5) > 0.475
        tone = 0.35 + 0.5 * (table[int(board) % 64, 5] - 0.5) + 0.7 * (grain - 0.5)
        return 0.45 + fade * ((1.9 if seam else tone) - 0.45)
    if kind == GRASS:
        value = 0.55 * _noise(table, x * 2.1, y * 2.1) + 0.45 * _noise(table, x * 7.0 + 5.5, y * 4.0)
        return 0.5 + 2.0 * fade * (value - 0.5)
    if kind == SAND:
        value = 0.7 * _noise(table, x * 0.8, y * 3.0) + 0.3 * _noise(table, x * 8.0, y * 8.0)
        return 0.5 + 2.0 * fade * (value - 0.5)
    if kind == STONE:
        value = 0.6 * _noise(table, x * 1.3, y * 1.3) + 0.4 * _noise(table, x * 5.0, y * 5.0 + 9.5)
        return 0.5 + 2.4 * fade * (value - 0.5)
    return 0.5 + 1.6 * fade * (_noise(table, x * 1.1, y * 1.1) - 0.5)


@_compiled
def _haze(depth):  # type: ignore[no-untyped-def]
    """Share of haze before a point: close to 1 - exp(-depth^2), without the price of exp."""
    square = depth * depth
    return 1.0 - 1.0 / (1.0 + square + 0.5 * square * square)


@_compiled
def _glow(world, dx):  # type: ignore[no-untyped-def]
    """Glow of the horizon, stronger on the side of the light."""
    level = max(0.55 + (dx if world[SUN] > 0.0 else -dx), 0.0)
    return level * level * level


@_inlined
def _sky(world, table, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Colour of the sky: gradient, glow around the sun, clouds and the moon."""
    up = max(dz, 0.0)
    k = 1.0 - (1.0 - up) ** 7
    r = world[HORIZON] + k * (world[ZENITH] - world[HORIZON])
    g = world[HORIZON + 1] + k * (world[ZENITH + 1] - world[HORIZON + 1])
    b = world[HORIZON + 2] + k * (world[ZENITH + 2] - world[HORIZON + 2])
    glow = _glow(world, dx) * (1.0 - up) ** 9
    r, g, b = r + glow * world[GLOW], g + glow * world[GLOW + 1], b + glow * world[GLOW + 2]
    if world[CLOUDS] > 0.0 and up > 0.0:
        x, y = dx / (up + 0.12), dy / (up + 0.12)
        value = 0.65 * _noise(table, x * 1.3 + world[CLOUD_OFFSET], y * 2.0) + 0.35 * _noise(
            table, x * 3.1, y * 4.3 + world[CLOUD_OFFSET]
        )
        cover = min(max((value - 1.0 + 0.75 * world[CLOUDS]) * 3.5, 0.0), 1.0) * min(up * 8.0, 1.0)
        shade = world[AMBIENT_UP] * 0.5 + 0.55 * world[SUN_COLOUR]
        r, g, b = r + cover * (shade - r), g + cover * (shade * 1.01 - g), b + cover * (shade * 1.03 - b)
    if world[MOON] > 0.0:
        side = 1.0 if world[SUN] > 0.0 else -1.0
        mx, my, mz = side * 0.232, 0.969, 0.082
        cosine = dx * mx + dy * my + dz * mz
        disc = min(max((cosine - 0.99840) / 0.0006, 0.0), 1.0)
        halo = max(cosine, 0.0) ** 90 * 0.18
        r, g, b = r + halo + disc * (0.95 - r), g + halo + disc * (0.93 - g), b + halo + disc * (0.80 - b)
    return r, g, b


@_inlined
def _radiance(parts, objects, world, table, ox, oy, oz, dx, dy, dz, jitter_x, jitter_y):  # type: ignore[no-untyped-def]
    """Light that arrives along one ray (linear r, g, b) and the id of what it meets first (0 = backdrop)."""
    red, green, blue, first = 0.0, 0.0, 0.0, 0
    wr, wg, wb = 1.0, 1.0, 1.0
    # The sun is a small disc: each sample of a pixel sees another point of it, which softens shadows.
    sx = world[SUN] + jitter_x * world[SUN_RADIUS]
    sy = world[SUN + 1] + jitter_y * world[SUN_RADIUS]
    sz = world[SUN + 2]
    scale = 1.0 / sqrt(sx * sx + sy * sy + sz * sz)
    sx, sy, sz = sx * scale, sy * scale, sz * scale
    for bounce in range(2):
        t, row = _trace(parts, objects, ox, oy, oz, dx, dy, dz)
        floor_t = -oz / dz if dz < -1e-6 else _FAR
        if row < 0 and floor_t > 60.0:
            r, g, b = _sky(world, table, dx, dy, dz)
            return red + wr * r, green + wg * g, blue + wb * b, first
        mirror, tint = 0.0, 0.0
        if floor_t < t:
            px, py, pz = ox + floor_t * dx, oy + floor_t * dy, 0.0
            nx, ny, nz = 0.0, 0.0, 1.0
            mix = min(max(_ground_mix(world, table, px, py, floor_t), 0.0), 1.0)
            ar = world[GROUND_FIRST] + mix * (world[GROUND_SECOND] - world[GROUND_FIRST])
            ag = world[GROUND_FIRST + 1] + mix * (world[GROUND_SECOND + 1] - world[GROUND_FIRST + 1])
            ab = world[GROUND_FIRST + 2] + mix * (world[GROUND_SECOND + 2] - world[GROUND_FIRST + 2])
            gloss = 0.0
            occlusion = 1.0
            for n in range(objects.shape[0]):
                # Share of the sky that the object's sphere hides: the soft contact shadow.
                vx, vy, vz = objects[n, 0] - px, objects[n, 1] - py, objects[n, 2]
                square = vx * vx + vy * vy + vz * vz
                radius = 0.8 * objects[n, 3]
                occlusion *= 1.0 - min(0.75, max(vz, 0.0) * radius * radius / (square * sqrt(square)))
            if int(world[GROUND]) == WATER:
                mirror = 0.18 + 0.72 * (1.0 + dz) ** 4
            fog = _haze(floor_t * world[FOG])
        else:
            if bounce == 0:
                first = int(parts[row, OWNER])
            px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
            cx, cy, cz = px - parts[row, CENTRE], py - parts[row, CENTRE + 1], pz - parts[row, CENTRE + 2]
            lx = parts[row, INVERSE] * cx + parts[row, INVERSE + 1] * cy + parts[row, INVERSE + 2] * cz
            ly = parts[row, INVERSE + 3] * cx + parts[row, INVERSE + 4] * cy + parts[row, INVERSE + 5] * cz
            lz = parts[row, INVERSE + 6] * cx + parts[row, INVERSE + 7] * cy + parts[row, INVERSE + 8] * cz
            ux, uy, uz = _local_normal(parts, row, lx, ly, lz)
            nx = parts[row, INVERSE] * ux + parts[row, INVERSE + 3] * uy + parts[row, INVERSE + 6] * uz
            ny = parts[row, INVERSE + 1] * ux + parts[row, INVERSE + 4] * uy + parts[row, INVERSE + 7] * uz
            nz = parts[row, INVERSE + 2] * ux + parts[row, INVERSE + 5] * uy + parts[row, INVERSE + 8] * uz
            scale = 1.0 / sqrt(nx * nx + ny * ny + nz * nz + 1e-18)
            nx, ny, nz = nx * scale, ny * scale, nz * scale
            away = nx * dx + ny * dy + nz * dz
            if away > 0.0:
                # A rounded edge that turns from the viewer: bend it back to the rim.
                nx, ny, nz = nx - away * dx, ny - away * dy, nz - away * dz
            share = _pattern(parts, row, lx, ly, lz)
            gloss, mirror, tint = parts[row, GLOSS], parts[row, MIRROR], 1.0 if parts[row, MIRROR] > 0.3 else 0.0
            ar, ag, ab = parts[row, COLOUR], parts[row, COLOUR + 1], parts[row, COLOUR + 2]
            if share > 1.5:
                ar, ag, ab, gloss, mirror, tint = 0.012, 0.02, 0.035, 0.9, 0.10, 0.0
            elif share > 0.0:
                ar, ag, ab = parts[row, SECOND], parts[row, SECOND + 1], parts[row, SECOND + 2]
            # Close to the ground less sky reaches the lower side.
            occlusion = 1.0 - 0.45 * max(0.0, 1.0 - pz * 1.8) * (0.5 - 0.5 * nz)
            fog = _haze(0.6 * t * world[FOG]) if bounce == 0 else 0.0
        facing = nx * sx + ny * sy + nz * sz
        lit = 0.0
        if facing > 0.0 and not _shadowed(parts, objects, px + 2e-3 * nx, py + 2e-3 * ny, pz + 2e-3 * nz, sx, sy, sz):
            lit = facing
        k = 0.5 + 0.5 * nz
        r = ar * (
            lit * world[SUN_COLOUR] + occlusion * (world[AMBIENT_DOWN] + k * (world[AMBIENT_UP] - world[AMBIENT_DOWN]))
        )
        g = ag * (
            lit * world[SUN_COLOUR + 1]
            + occlusion * (world[AMBIENT_DOWN + 1] + k * (world[AMBIENT_UP + 1] - world[AMBIENT_DOWN + 1]))
        )
        b = ab * (
            lit * world[SUN_COLOUR + 2]
            + occlusion * (world[AMBIENT_DOWN + 2] + k * (world[AMBIENT_UP + 2] - world[AMBIENT_DOWN + 2]))
        )
        cosine = -(nx * dx + ny * dy + nz * dz)
        if gloss > 0.0 and lit > 0.0:
            hx, hy, hz = sx - dx, sy - dy, sz - dz
            half = (nx * hx + ny * hy + nz * hz) / sqrt(hx * hx + hy * hy + hz * hz)
            shine = gloss * max(half, 0.0) ** (20.0 + 60.0 * gloss)
            r, g, b = (
                r + shine * world[SUN_COLOUR],
                g + shine * world[SUN_COLOUR + 1],
                b + shine * world[SUN_COLOUR + 2],
            )
        rim = (0.02 + 0.5 * gloss) * (1.0 - max(cosine, 0.0)) ** 4 * occlusion if floor_t >= t else 0.0
        r, g, b = r + rim * world[AMBIENT_UP], g + rim * world[AMBIENT_UP + 1], b + rim * world[AMBIENT_UP + 2]
        if fog > 0.0:
            glow = _glow(world, dx)
            r += fog * (world[HORIZON] + glow * world[GLOW] - r)
            g += fog * (world[HORIZON + 1] + glow * world[GLOW + 1] - g)
            b += fog * (world[HORIZON + 2] + glow * world[GLOW + 2] - b)
            mirror *= 1.0 - fog
        keep = 1.0 - mirror
        red, green, blue = red + wr * keep * r, green + wg * keep * g, blue + wb * keep * b
        if mirror < 0.02 or bounce == 1:
            red, green, blue = red + wr * mirror * r, green + wg * mirror * g, blue + wb * mirror * b
            break
        wr *= mirror * (1.0 + tint * (min(1.0, 1.25 * ar + 0.08) - 1.0))
        wg *= mirror * (1.0 + tint * (min(1.0, 1.25 * ag + 0.08) - 1.0))
        wb *= mirror * (1.0 + tint * (min(1.0, 1.25 * ab + 0.08) - 1.0))
        ox, oy, oz = px + 2e-3 * nx, py + 2e-3 * ny, pz + 2e-3 * nz
        bend = 2.0 * cosine
        dx, dy, dz = dx + bend * nx, dy + bend * ny, dz + bend * nz
    return red, green, blue, first


@_compiled
def _tone(value, curve):  # type: ignore[no-untyped-def]
    """Display value of a linear one: a soft shoulder instead of clipping, then the sRGB curve."""
    if value > 0.8:
        value = 1.0 - 0.2 * exp((0.8 - value) * 5.0)
    return curve[int(max(value, 0.0) * (curve.shape[0] - 1))]


@_inlined
def _sample(parts, objects, world, table, camera, u, v, jitter_x, jitter_y):  # type: ignore[no-untyped-def]
    """Radiance through the picture point (u, v), both in -1..1 with v upwards."""
    dx = camera[9] + u * camera[3] + v * camera[6]
    dy = camera[10] + u * camera[4] + v * camera[7]
    dz = camera[11] + u * camera[5] + v * camera[8]
    scale = 1.0 / sqrt(dx * dx + dy * dy + dz * dz)
    return _radiance(
        parts, objects, world, table, camera[0], camera[1], camera[2],
        dx * scale, dy * scale, dz * scale, jitter_x, jitter_y,
    )  # fmt: skip


@_compiled
def render_clip(parts, objects, cameras, world, table, curve, grid, frames, ids):  # type: ignore[no-untyped-def]
    """Fill `frames` (t h w 3) and `ids` (t h w, by majority) with the samples of `grid` (places within a pixel).

    The first two entries of the grid lie on a diagonal; where both see the same surface in nearly the same colour,
    the others are skipped.
    """
    height, width = frames.shape[1], frames.shape[2]
    world, table, curve = _borrow(world), _borrow(table), _borrow(curve)
    all_parts = _borrow(parts)
    all_objects = _borrow(objects)
    all_cameras = _borrow(cameras)
    for f in range(frames.shape[0]):
        placed, spheres, camera = all_parts[f], all_objects[f], all_cameras[f]
        for row in range(height):
            for column in range(width):
                red, green, blue, votes, taken = 0.0, 0.0, 0.0, 0, 0
                last_red, last_green, last_blue, last = 0.0, 0.0, 0.0, -1
                for n in range(grid.shape[0]):
                    u = 2.0 * (column + grid[n, 0]) / width - 1.0
                    v = 1.0 - 2.0 * (row + grid[n, 1]) / height
                    jx, jy = 2.0 * grid[n, 0] - 1.0, 2.0 * grid[n, 1] - 1.0
                    r, g, b, first = _sample(placed, spheres, world, table, camera, u, v, jx, jy)
                    red, green, blue, taken = red + r, green + g, blue + b, taken + 1
                    votes += 1 << (6 * first)
                    if n == 1 and first == last:
                        change = abs(r - last_red) + abs(g - last_green) + abs(b - last_blue)
                        if change < 0.03 * (0.1 + r + g + b):
                            break
                    last_red, last_green, last_blue, last = r, g, b, first
                share = 1.0 / taken
                frames[f, row, column, 0] = _tone(red * share, curve)
                frames[f, row, column, 1] = _tone(green * share, curve)
                frames[f, row, column, 2] = _tone(blue * share, curve)
                best, most = 0, votes & 63
                for n in range(1, spheres.shape[0] + 1):
                    count = (votes >> (6 * n)) & 63
                    if count > most:
                        best, most = n, count
                ids[f, row, column] = best


@_compiled
def cover(parts, objects, cameras, size, seen, alone):  # type: ignore[no-untyped-def]
    """Count the pixels of every object per frame: seen in the picture, and had nothing else been there.

    The second count looks at a picture of twice the width, so that parts outside the picture count as hidden.
    """
    all_parts = _borrow(parts)
    all_objects = _borrow(objects)
    all_cameras = _borrow(cameras)
    for f in range(cameras.shape[0]):
        c, placed = all_cameras[f], all_parts[f]
        for row in range(-size // 2, size + size // 2):
            for column in range(-size // 2, size + size // 2):
                u = 2.0 * (column + 0.5) / size - 1.0
                v = 1.0 - 2.0 * (row + 0.5) / size
                dx = c[9] + u * c[3] + v * c[6]
                dy = c[10] + u * c[4] + v * c[7]
                dz = c[11] + u * c[5] + v * c[8]
                scale = 1.0 / sqrt(dx * dx + dy * dy + dz * dz)
                best, nearest = _FAR, -1
                for n in range(objects.shape[1]):
                    sphere = all_objects[f, n : n + 1]
                    t, found = _trace(placed, sphere, c[0], c[1], c[2], dx * scale, dy * scale, dz * scale)
                    if found >= 0:
                        alone[f, n] += 1
                        if t < best:
                            best, nearest = t, n
                if nearest >= 0 and 0 <= row < size and 0 <= column < size:
                    seen[f, nearest] += 1
