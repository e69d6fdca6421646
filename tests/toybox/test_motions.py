"""Every motion does what its name says, measured on poses and pictures."""

import numpy as np
import pytest

from m4v.toybox.camera import camera_track
from m4v.toybox.models import MODELS
from m4v.toybox.motions import Poses, animate
from m4v.toybox.records import MotionStep
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene
from tests.toybox.scenes import make_object, make_scene


def poses_of(name: str, amount: float, *, frames: int = 33, kind: str = "cube") -> Poses:
    return animate(make_scene(make_object(kind, motions=(MotionStep(name=name, amount=amount),))), frames)


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("toward", 1, -1), ("away", 1, 1)]
)
def test_travel_is_steady_and_straight(name: str, axis: int, sign: int) -> None:
    path = poses_of(name, 1.6).centre[:, 0]
    steps = np.diff(path[:, axis]) * sign
    np.testing.assert_allclose(steps, 1.6 / 32, rtol=1e-9)
    np.testing.assert_allclose(np.delete(path, axis, axis=1), np.delete(path[:1], axis, axis=1) + 0 * path[:, :2])


def test_a_ball_rolls_without_slipping() -> None:
    poses = poses_of("right", 1.5, kind="ball")
    radius = 0.5 * MODELS["ball"].height
    np.testing.assert_allclose(poses.centre[:, 0, 2], radius)
    angle = 1.5 / radius
    np.testing.assert_allclose(poses.rotation[-1, 0, :, 2], [np.sin(angle), 0.0, np.cos(angle)], atol=1e-9)


@pytest.mark.parametrize(("name", "peaks"), [("jumps", 2), ("bounces", 3)])
def test_jumps_and_bounces_leave_the_ground_and_return(name: str, peaks: int) -> None:
    height = poses_of(name, 0.8, frames=241).position[:, 0, 2]
    assert height.min() >= 0.0
    assert height[0] == pytest.approx(0.0)
    assert height[-1] == pytest.approx(0.0, abs=1e-6)
    assert height.max() == pytest.approx(0.8, abs=0.01)
    inner = height[1:-1]
    assert ((inner > height[:-2]) & (inner >= height[2:]) & (inner > 0.7)).sum() == peaks


def test_fall_ends_on_the_ground_and_rise_above() -> None:
    fall, rise = (poses_of(name, 2.0).position[:, 0, 2] for name in ("falls", "rises"))
    assert fall[0] == pytest.approx(2.0)
    assert fall[-1] == pytest.approx(0.0)
    assert rise[0] == pytest.approx(0.0)
    assert rise[-1] == pytest.approx(2.0)
    assert (np.diff(rise) >= 0).all()


def test_growth_spin_and_sway() -> None:
    np.testing.assert_allclose(poses_of("grows", 2.0).scale[-1, 0], 2.0)
    np.testing.assert_allclose(poses_of("shrinks", 0.5).scale[-1, 0], 0.5)
    spin = poses_of("spins", 1.0, frames=5).rotation[:, 0, :, 0]
    np.testing.assert_allclose(spin, [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [1, 0, 0]], atol=1e-9)
    lean = poses_of("sways", 0.3).rotation[:, 0, 0, 2]
    assert lean.max() == pytest.approx(np.sin(0.3), abs=0.01)
    assert lean.min() == pytest.approx(-np.sin(0.3), abs=0.01)


def test_the_second_step_starts_where_the_first_ended() -> None:
    steps = (MotionStep(name="left", amount=1.0), MotionStep(name="jumps", amount=0.6))
    path = animate(make_scene(make_object("car", motions=steps)), 65).position[:, 0]
    assert np.abs(np.diff(path, axis=0)).max() < 0.12
    assert path[32, 0] == pytest.approx(-1.0)
    np.testing.assert_allclose(path[32:, 0], -1.0)
    assert path[:32, 2].max() == 0.0
    assert path[32:, 2].max() > 0.55


def test_a_car_turns_into_its_second_direction() -> None:
    steps = (MotionStep(name="left", amount=1.0), MotionStep(name="away", amount=1.0))
    turned = animate(make_scene(make_object("car", motions=steps, yaw=-np.pi / 2)), 33).rotation[-1, 0]
    np.testing.assert_allclose(turned @ [0.0, -1.0, 0.0], [0.0, 1.0, 0.0], atol=1e-6)


def test_circling_keeps_its_distance_and_chasing_its_order() -> None:
    still = make_object("cube")
    circling = make_object(position=(1.5, 0.0, 0.0), motions=(MotionStep(name="circles", target=0, amount=1.0),))
    poses = animate(make_scene(still, circling), 33)
    apart = poses.centre[:, 1, :2] - poses.centre[:, 0, :2]
    np.testing.assert_allclose(np.linalg.norm(apart, axis=1), 1.5)
    np.testing.assert_allclose(apart[16], [-1.5, 0.0], atol=1e-6)

    leader = make_object("cube", motions=(MotionStep(name="left", amount=1.5),))
    chaser = make_object(position=(2.0, 0.0, 0.0), motions=(MotionStep(name="chases", target=0, amount=1.1),))
    path = animate(make_scene(leader, chaser), 33).centre[:, :, 0]
    assert (path[:, 1] > path[:, 0]).all()
    assert path[-1, 1] - path[0, 1] == pytest.approx(-1.65)


def test_a_bump_pushes_the_other_away() -> None:
    pushed = make_object("cube", motions=())
    bumper = make_object(position=(2.4, 0.0, 0.0), motions=(MotionStep(name="bumps", target=0, amount=0.9),))
    path = animate(make_scene(pushed, bumper), 33).position[:, :, 0]
    np.testing.assert_allclose(path[:17, 0], 0.0, atol=1e-9)
    assert path[-1, 0] < -0.3
    assert path[:, 1].argmin() in (15, 16, 17)


@pytest.mark.parametrize("name", ["left", "right", "toward", "away", "jumps", "still"])
def test_small_tier_motions_are_large_and_stay_in_view(name: str) -> None:
    found = 0
    for index in range(150):
        scene = sample_scene(1, index, "xs")
        item = scene.objects[0]
        if item.motions[0].name != name:
            continue
        found += 1
        if found > 6:
            break
        rendered = render(scene, samples=1)
        boxes = rendered.boxes[:, 0]
        middle, height = boxes[:, [0, 2]].mean(axis=1), boxes[:, 3] - boxes[:, 1]
        if item.kind != "car":
            assert height.max() >= 17
        assert height.max() <= 36
        assert rendered.visible_share.min() >= 0.85
        moved = middle[-1] - middle[0]
        expected = {
            "left": moved <= -10,
            "right": moved >= 10,
            "toward": height[-1] >= 1.25 * height[0],
            "away": height[0] >= 1.25 * height[-1],
            "jumps": boxes[0, 3] - boxes[:, 3].min() >= 6 and abs(moved) < 2,
            "still": np.abs(boxes - boxes[0]).max() == 0,
        }
        assert expected[name], (index, item.kind)
    assert found >= 5


@pytest.mark.parametrize("camera", ["pans left", "pans right", "orbits", "moves closer", "pulls back", "rises"])
def test_camera_moves_show_in_the_picture(camera: str) -> None:
    track = camera_track(make_scene(make_object(), camera=camera), 9)
    for basis in (track.right, track.up, track.forward):
        np.testing.assert_allclose(np.linalg.norm(basis, axis=1), 1.0)
    np.testing.assert_allclose((track.right * track.forward).sum(axis=1), 0.0, atol=1e-12)
    point = np.tile([0.0, 0.0, 0.6], (9, 1, 1))
    place, depth = track.project(point)
    across = place[:, 0, 0]
    checks = {
        "pans left": across[-1] > across[0] + 0.3,
        "pans right": across[-1] < across[0] - 0.3,
        "orbits": np.abs(across).max() < 1e-6 and track.eye[-1, 0] > track.eye[0, 0] + 1.0,
        "moves closer": depth[-1, 0] < 0.8 * depth[0, 0],
        "pulls back": depth[-1, 0] > 1.25 * depth[0, 0],
        "rises": track.eye[-1, 2] > track.eye[0, 2] + 1.0 and np.abs(place).max() < 0.6,
    }
    assert checks[camera]
