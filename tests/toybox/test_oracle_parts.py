"""Parts of the judge against truths of their own: colour space, components, silhouettes, places and motions."""

import numpy as np
import pytest

from m4v.toybox.oracles import kernels
from m4v.toybox.oracles.movement import Movement, movement
from m4v.toybox.oracles.oklab import to_shading_free
from m4v.toybox.oracles.segmentation import segment, to_working_size
from m4v.toybox.oracles.shapes import describe
from m4v.toybox.oracles.tracks import follow
from m4v.toybox.oracles.world_knowledge import world_knowledge
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene
from m4v.toybox.tiers import get_tier

NAMES = get_tier("xs").motions


def test_white_and_grey_have_no_chroma():
    frames = np.repeat(np.array([[[[255], [128], [60]]]], dtype=np.uint8), 3, axis=3)
    lab = to_shading_free(frames)
    assert lab[0, 0, 0, 0] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(lab[..., 1:]).max() < 1e-3


def test_published_oklab_value_of_pure_red():
    lab = to_shading_free(np.array([[[[255, 0, 0]]]], dtype=np.uint8))[0, 0, 0]
    assert lab[0] == pytest.approx(0.6280, abs=2e-3)
    assert lab[1:] * lab[0] == pytest.approx([0.2249, 0.1258], abs=2e-3)


def test_shading_changes_lightness_only():
    light = np.array([0.9, 0.4, 0.2])
    shades = np.round(255 * (light * np.array([1.0, 0.6, 0.3])[:, None]) ** (1 / 2.2)).astype(np.uint8)
    lab = to_shading_free(shades[None, None])[0, 0]
    assert np.ptp(lab[:, 0]) > 0.2
    assert np.ptp(lab[:, 1:], axis=0).max() < 0.01


def test_components_join_across_gaps_within_reach():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0, 0] = mask[3, 0] = mask[7, 7] = True
    labels = np.empty(mask.shape, dtype=np.int32)
    assert kernels.connected(mask, 1, 1, labels) == 3
    assert kernels.connected(mask, 3, 1, labels) == 2
    assert labels[0, 0] == labels[3, 0] != labels[7, 7]
    assert (labels > 0).sum() == 3


@pytest.mark.parametrize("index", range(4))
def test_blobs_cover_what_the_renderer_says(index):
    world = world_knowledge("xs")
    picture = render(sample_scene(31, index, "xs"), num_frames=5)
    found = segment(picture.frames, world.palette_under(picture.frames), has_fixed_camera=True)
    for blobs, ids in zip(found.blobs, picture.object_ids, strict=True):
        assert len(blobs) == 1
        truth = ids == 1
        overlap = (blobs[0].mask & truth).sum() / (blobs[0].mask | truth).sum()
        assert overlap > 0.7


def test_description_does_not_depend_on_size_or_side():
    world = world_knowledge("xs")
    scene = next(s for s in (sample_scene(5, i, "xs") for i in range(99)) if s.objects[0].kind == "cone")
    picture = render(scene, num_frames=1)
    views = []
    for frames in (picture.frames, np.ascontiguousarray(picture.frames[:, :, ::-1])):
        found = segment(frames, world.palette_under(frames), has_fixed_camera=True)
        blob = found.blobs[0][0]
        views.append(describe(found, blob, blob.colour).reshape(20, 20, 3))
    assert np.abs(views[0] - views[1][:, ::-1])[..., 0].mean() < 0.02


def test_larger_pictures_are_averaged_down():
    frames = np.arange(2 * 128 * 128 * 3).reshape(2, 128, 128, 3).astype(np.uint8)
    small = to_working_size(frames)
    assert small.shape == (2, 64, 64, 3)
    assert small[0, 0, 0, 0] == round(frames[0, :2, :2, 0].mean())


def test_measured_displacement_is_that_of_the_scene():
    for index in range(12):
        scene = sample_scene(8, index, "xs")
        item = scene.objects[0]
        world = world_knowledge("xs")
        frames = render(scene).frames
        track = follow(segment(frames, world.palette_under(frames), has_fixed_camera=True))[0]
        found = movement(track, world.horizon_row)
        step = item.motions[0]
        expected = {"left": (-1, 0), "right": (1, 0), "toward": (0, 1), "away": (0, -1)}.get(step.name, (0, 0))
        for measured, sign in zip((found.right, found.toward), expected, strict=True):
            assert np.sign(round(measured, 0)) == sign
            # Widths of the toys lie between 0.9 and 2.1 units.
            assert abs(measured) <= abs(sign) * step.amount / 0.85 + 0.2


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0.1, -0.1, 0.0, 0.0, 0.0), "still"),
        ((-1.2, 0.3, 0.05, 0.0, 0.0), "left"),
        ((1.2, 0.3, 0.05, 0.0, 0.0), "right"),
        ((0.4, 1.0, 0.05, 0.0, 0.4), "toward"),
        ((0.4, -1.0, 0.05, 0.0, -0.4), "away"),
        ((0.0, 0.0, 0.5, 0.0, 0.0), "jumps"),
    ],
)
def test_names_of_motions(values, name):
    fields = ("right", "toward", "jump", "lift", "growth")
    found = Movement(**dict(zip(fields, values, strict=True)))
    assert found.named(NAMES) == name
    assert 0.0 <= found.confidence <= 1.0


def test_lifting_and_growing_are_named_only_where_the_world_has_them():
    rising = Movement(right=0.0, toward=0.1, jump=0.0, lift=1.0, growth=0.0)
    growing = Movement(right=0.0, toward=1.5, jump=0.0, lift=1.5, growth=0.6)
    assert rising.named(NAMES) == "still"
    assert growing.named(NAMES) == "toward"
    assert rising.named(get_tier("s").motions) == "rises"
    assert growing.named(get_tier("s").motions) == "grows"


def test_knowledge_is_deterministic_and_complete():
    world = world_knowledge("xs")
    assert world_knowledge("xs") is world
    assert set(np.unique(world.kinds)) == set(range(6))
    assert min(np.bincount(world.kinds)) >= 80
    fresh = world_knowledge.__wrapped__("xs")
    np.testing.assert_array_equal(fresh.templates, world.templates)
