"""The renderer against brute force, physics and itself."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.toybox import axes, kernels
from m4v.toybox.camera import TAN_HALF_VIEW, camera_track
from m4v.toybox.models import BOX, CAPSULE, FRUSTUM, MODELS, Part
from m4v.toybox.motions import animate
from m4v.toybox.packing import pack
from m4v.toybox.records import MotionStep
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene
from tests.toybox.scenes import make_object, make_scene


def is_inside(part: Part, points: np.ndarray) -> np.ndarray:
    """Membership of a solid, written from its definition: an independent truth for the intersections."""
    x, y, z = np.moveaxis(points, -1, 0)
    round_square = x * x + y * y
    if part.shape == BOX:
        return np.abs(points).max(axis=-1) <= 1.0
    if part.shape == FRUSTUM:
        radius = 1.0 + (part.param - 1.0) * (z + 1.0) / 2.0
        return (np.abs(z) <= 1.0) & (round_square <= radius * radius)
    if part.shape == CAPSULE:
        beyond = np.maximum(np.abs(z) - part.param, 0.0)
        return round_square + beyond * beyond <= 1.0
    return (round_square + z * z <= 1.0) & (z >= part.param)


@pytest.mark.parametrize("kind", axes.OBJECTS)
def test_silhouettes_agree_with_points_along_the_rays(kind: str) -> None:
    scene = make_scene(make_object(kind, yaw=0.5, position=(0.2, 0.1, 0.0)), camera="orbits")
    size = 24
    poses, camera = animate(scene, 1), camera_track(scene, 1)
    packed = pack(scene, poses, camera)
    steps = 2.0 * (np.arange(size) + 0.5) / size - 1.0
    across, down = np.meshgrid(steps, steps)
    rays = (
        camera.forward[0]
        + TAN_HALF_VIEW * across[..., None] * camera.right[0]
        - TAN_HALF_VIEW * down[..., None] * camera.up[0]
    )
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    points = camera.eye[0] + rays[:, :, None] * np.linspace(2.0, 9.0, 1400)[:, None]
    expected = np.zeros((size, size), dtype=bool)
    for number, part in enumerate(MODELS[kind].parts):
        row = packed.parts[0, number]
        inverse = row[kernels.INVERSE : kernels.INVERSE + 9].reshape(3, 3)
        local = (points - row[kernels.CENTRE : kernels.CENTRE + 3]) @ inverse.T
        expected |= (is_inside(part, local) & (points[..., 2] > 0.0)).any(axis=2)
    ids = render(scene, size=size, num_frames=1, samples=1).object_ids[0]
    assert expected.sum() > 20
    assert (expected != (ids == 1)).sum() <= 2  # rays that only graze an edge


def test_bounding_spheres_hold_every_corner() -> None:
    squashed = (MotionStep(name="jumps", amount=0.8), MotionStep(name="sways", amount=0.3))
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    for kind, model in MODELS.items():
        scene = make_scene(make_object(kind, motions=squashed, yaw=0.7, scale=1.3))
        packed = pack(scene, animate(scene, 17), camera_track(scene, 17))
        for number, part in enumerate(model.parts):
            rows = packed.parts[:, number]
            matrices = np.linalg.inv(rows[:, kernels.INVERSE : kernels.INVERSE + 9].reshape(-1, 3, 3))
            surface = corners if part.shape == BOX else corners / np.sqrt([2.0, 2.0, 1.0])
            if part.shape not in (BOX, FRUSTUM):
                surface = corners / np.sqrt(3.0)
            if part.shape == CAPSULE:
                surface = surface + np.sign(corners) * [0.0, 0.0, part.param]
            reach = np.linalg.norm(np.einsum("tij,cj->tci", matrices, surface), axis=2).max(axis=1)
            assert (reach**2 <= rows[:, kernels.BOUND]).all(), (kind, number)


def test_rendering_twice_gives_the_same_bits_in_any_thread() -> None:
    scenes = [sample_scene(3, index, "s") for index in range(6)]
    alone = [render(scene).frames for scene in scenes]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda scene: render(scene).frames, scenes))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_shadow_falls_away_from_the_light() -> None:
    lit = {}
    for light in axes.LIGHTS:
        scene = make_scene(make_object("cylinder"), light=light)
        empty = make_scene(make_object("cylinder", position=(0.0, -50.0, 0.0)), light=light)
        with_object, without = render(scene, num_frames=1), render(empty, num_frames=1)
        darker = without.frames[0].astype(int).sum(axis=2) - with_object.frames[0].astype(int).sum(axis=2) > 90
        lit[light] = np.nonzero(darker & (with_object.object_ids[0] == 0))[1].mean()
    assert lit["left"] > 34
    assert lit["right"] < 30


def test_lit_side_is_brighter() -> None:
    left = render(make_scene(make_object("ball"), light="left"), num_frames=1)
    mask = left.object_ids[0] == 1
    columns = np.nonzero(mask)[1]
    middle = columns.mean()
    grey = left.frames[0].astype(float).sum(axis=2)
    near = grey[mask & (np.arange(64)[None, :] < middle - 3)].mean()
    far = grey[mask & (np.arange(64)[None, :] > middle + 3)].mean()
    assert near > 1.15 * far


def test_metal_and_water_mirror_their_surroundings() -> None:
    red_beside = make_object("cube", position=(1.2, 0.4, 0.0), colour="red")
    white = make_object("ball", position=(-0.6, 0.0, 0.0), colour="white", material="metal")
    alone, beside = (render(make_scene(*objects), num_frames=1) for objects in ((white,), (white, red_beside)))
    ball = (alone.object_ids[0] == 1) & (beside.object_ids[0] == 1)
    assert (np.abs(alone.frames[0].astype(int) - beside.frames[0].astype(int)).max(axis=2)[ball] > 40).any()
    water = render(make_scene(make_object("lighthouse", scale=0.8), ground="still water"), num_frames=1)
    below = water.frames[0, 52:58, 28:36].astype(int)
    assert (below[..., 0] - below[..., 2]).max() > 0  # the red tower in blue water


def test_more_samples_change_edges_only_little() -> None:
    scene = sample_scene(0, 5, "xs")
    four, many = (render(scene, num_frames=2, samples=samples).frames.astype(float) for samples in (4, 36))
    assert np.abs(four - many).mean() < 1.2


def test_boxes_frame_the_visible_pixels() -> None:
    rendered = render(make_scene(make_object("cone"), make_object("cube", position=(0.0, -50.0, 0.0))), num_frames=1)
    rows, columns = np.nonzero(rendered.object_ids[0] == 1)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert rendered.boxes[0, 0].tolist() == expected
    assert rendered.boxes[0, 1].tolist() == [-1, -1, -1, -1]
    assert rendered.visible_share[0, 0] == 1.0
    assert rendered.visible_share[0, 1] == 0.0


def test_visible_share_counts_what_others_and_the_frame_hide() -> None:
    front, back = make_object("cube"), make_object("cube", position=(0.0, 1.6, 0.0), colour="blue")
    covered = render(make_scene(front, back), num_frames=1).visible_share[0]
    assert covered[0] == 1.0
    assert covered[1] < 0.75
    cut = render(make_scene(make_object("cube", position=(2.0, 0.0, 0.0))), num_frames=1).visible_share[0, 0]
    assert 0.2 < cut < 0.8


@pytest.mark.parametrize("sky", axes.SKIES)
@pytest.mark.parametrize("ground", axes.GROUNDS)
def test_every_backdrop_is_neither_black_nor_blown_out(sky: str, ground: str) -> None:
    frames = render(make_scene(make_object(), ground=ground, sky=sky), num_frames=1).frames
    assert 15 < frames.mean() < 235
    assert frames.std() > 8


def test_pictures_of_any_size_agree() -> None:
    scene = sample_scene(0, 2, "xs")
    small, large = render(scene, size=64, num_frames=1), render(scene, size=128, num_frames=1)
    pooled = large.frames[0].astype(float).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small.frames[0]).mean() < 2.0
    assert render(scene, size=33, num_frames=3).frames.shape == (3, 33, 33, 3)


@pytest.mark.parametrize(("size", "frames", "samples"), [(0, 1, 4), (64, 0, 4), (64, 1, 3), (64, 1, 0), (64, 1, 64)])
def test_impossible_requests_are_refused(size: int, frames: int, samples: int) -> None:
    with pytest.raises(UserError):
        render(make_scene(make_object()), size=size, num_frames=frames, samples=samples)


def test_compilation_works_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def refuse_cache(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: compiled.append(function) or function

    monkeypatch.setattr(kernels.numba, "njit", refuse_cache)
    assert kernels._compiled(is_inside) is is_inside
    assert compiled == [is_inside]


def test_camera_moves_leave_the_scene_record_alone() -> None:
    scene = make_scene(make_object())
    for camera in axes.CAMERAS:
        frames = render(replace(scene, camera=camera), num_frames=2, samples=1).frames
        assert (frames[0] != frames[1]).any() == (camera != "static")
