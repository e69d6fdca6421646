"""The judge against records of clips it has never seen, clean and degraded, and against edits of known effect."""

import dataclasses
import time

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.toybox import axes
from m4v.toybox.oracles.judge import judge
from m4v.toybox.oracles.verdict import Verdict
from m4v.toybox.records import Scene
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene
from m4v.toybox.splits import evaluation_prompts
from m4v.toybox.tiers import get_tier
from tests.toybox.degradations import MILD

NUM_CLIPS = 102
MIRRORED = {"left": "right", "right": "left"}


@pytest.fixture(scope="module")
def clips() -> list[tuple[Scene, np.ndarray]]:
    """Clips of the test split, with a seed that nothing else uses."""
    scenes = [sample_scene(4242, index, "xs", "iid") for index in range(NUM_CLIPS)]
    return [(scene, render(scene).frames) for scene in scenes]


@pytest.fixture(scope="module")
def verdicts(clips: list[tuple[Scene, np.ndarray]]) -> list[Verdict]:
    return [judge(frames) for _, frames in clips]


def shares_right(scenes: list[Scene], verdicts: list[Verdict]) -> dict[str, float]:
    pairs = list(zip(scenes, verdicts, strict=True))
    return {
        "colour": float(np.mean([v.colour == s.objects[0].colour for s, v in pairs])),
        "object": float(np.mean([v.object == s.objects[0].kind for s, v in pairs])),
        "motion": float(np.mean([v.motion == s.objects[0].motions[0].name for s, v in pairs])),
        "count": float(np.mean([v.count == len(s.objects) for s, v in pairs])),
    }


def test_clean_renders_are_judged_right(clips, verdicts):
    shares = shares_right([scene for scene, _ in clips], verdicts)
    assert min(shares.values()) >= 0.98, shares


def test_every_value_of_every_axis_occurs_in_the_sample(clips):
    tier = get_tier("xs")
    items = [scene.objects[0] for scene, _ in clips]
    assert {item.kind for item in items} == set(tier.objects)
    assert {item.colour for item in items} == set(tier.colours)
    assert {item.motions[0].name for item in items} == set(tier.motions)


@pytest.mark.parametrize("name", MILD)
def test_mild_degradation_costs_little(clips, name):
    some = clips[::3]
    shares = shares_right([scene for scene, _ in some], [judge(MILD[name](frames)) for _, frames in some])
    assert min(shares.values()) >= 0.95, shares


def test_mirroring_swaps_left_and_right_only(clips, verdicts):
    for (_, frames), before in list(zip(clips, verdicts, strict=True))[:20]:
        after = judge(np.ascontiguousarray(frames[:, :, ::-1]))
        assert after.motion == MIRRORED.get(before.motion, before.motion)
        assert (after.colour, after.object) == (before.colour, before.object)


def test_playing_backwards_turns_the_direction(clips, verdicts):
    turned = {**MIRRORED, "toward": "away", "away": "toward"}
    for (_, frames), before in list(zip(clips, verdicts, strict=True))[:20]:
        assert judge(frames[::-1]).motion == turned.get(before.motion, before.motion)


def test_a_frozen_clip_stands_still(clips, verdicts):
    for (_, frames), before in list(zip(clips, verdicts, strict=True))[:20]:
        after = judge(np.repeat(frames[:1], len(frames), axis=0))
        assert after.motion == "still"
        assert after.colour == before.colour


def test_another_colour_changes_the_colour_only(clips, verdicts):
    colours = get_tier("xs").colours
    for number, ((scene, _), before) in enumerate(list(zip(clips, verdicts, strict=True))[:18]):
        colour = colours[(colours.index(scene.objects[0].colour) + 1 + number % 5) % 6]
        painted = dataclasses.replace(scene.objects[0], colour=colour)
        after = judge(render(dataclasses.replace(scene, objects=(painted,))).frames)
        assert after.colour == colour
        assert (after.object, after.motion) == (before.object, before.motion)


def test_another_object_changes_the_object_only(clips):
    kinds = get_tier("xs").objects
    for number, (scene, _) in enumerate(clips[:18]):
        kind = kinds[number % 6]
        exchanged = dataclasses.replace(scene.objects[0], kind=kind)
        after = judge(render(dataclasses.replace(scene, objects=(exchanged,))).frames)
        assert (after.object, after.colour) == (kind, scene.objects[0].colour)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_clip_shows_nothing(value):
    verdict = judge(np.full((17, 64, 64, 3), value, dtype=np.uint8))
    assert verdict.count == 0
    assert (verdict.colour, verdict.object, verdict.motion) == (None, None, None)


@pytest.mark.parametrize("grain", [1, 4, 8])
def test_noise_is_not_confidently_an_object(grain):
    rng = np.random.default_rng(grain)
    coarse = rng.integers(0, 256, (17, 64 // grain, 64 // grain, 3), dtype=np.uint8)
    for frames in (coarse, np.repeat(coarse[:1], 17, axis=0)):
        verdict = judge(frames.repeat(grain, axis=1).repeat(grain, axis=2))
        assert all(item.object_confidence < 0.35 for item in verdict.objects)


def test_the_world_without_its_object_shows_nothing(clips):
    for _, frames in clips[:6]:
        rows = np.median(frames, axis=(0, 2)).astype(np.uint8)
        empty = np.broadcast_to(rows[None, :, None], frames.shape)
        assert judge(np.ascontiguousarray(empty)).count == 0


def test_two_objects_are_counted(clips):
    frames = clips[0][1]
    for scene, other in clips[1:]:
        still = scene.objects[0].motions[0].name in ("still", "jumps")
        if still and scene.ground == clips[0][0].ground and other is not frames:
            break
    small = dataclasses.replace(scene.objects[0], scale=0.6, position=(-1.1, 0.3, 0.0), colour="red", kind="ball")
    second = dataclasses.replace(small, position=(1.1, 0.3, 0.0), colour="blue", kind="cube")
    verdict = judge(render(dataclasses.replace(scene, objects=(small, second))).frames)
    assert verdict.count == 2
    assert {(item.colour, item.object) for item in verdict.objects} == {("red", "ball"), ("blue", "cube")}


def test_size_of_the_picture_does_not_matter(clips, verdicts):
    for (scene, _), before in list(zip(clips, verdicts, strict=True))[:6]:
        after = judge(render(scene, size=128).frames)
        assert (after.colour, after.object, after.motion) == (before.colour, before.object, before.motion)


def test_confidence_is_high_where_the_judge_is_right_and_lower_under_damage(clips, verdicts):
    clean = [verdict.objects[0].object_confidence for verdict in verdicts]
    damaged = [
        found.objects[0].object_confidence if found.objects else 0.0
        for found in (judge(MILD["ragged"](frames)) for _, frames in clips[:20])
    ]
    assert np.median(clean) > 0.85
    assert np.mean(damaged) < np.mean(clean)


def test_judging_is_a_pure_function(clips):
    frames = clips[3][1].copy()
    assert judge(frames) == judge(frames)
    np.testing.assert_array_equal(frames, clips[3][1])


def test_judging_is_quick(clips, verdicts):
    start = time.process_time()
    for _, frames in clips[:20]:
        judge(frames)
    assert (time.process_time() - start) / 20 < 0.25  # 0.02 on an idle core


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((17, 64, 64), dtype=np.uint8),
        np.zeros((17, 64, 64, 3), dtype=np.float32),
        np.zeros((0, 64, 64, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(frames):
    with pytest.raises(UserError, match="uint8"):
        judge(frames)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["s", "m"])
def test_single_objects_of_the_whole_world_are_mostly_judged_right(tier):
    scenes = [prompt.scene for prompt in evaluation_prompts(tier).seen[::2]]
    found = [judge(render(scene).frames, tier) for scene in scenes]
    shares = shares_right(scenes, found)
    assert shares["colour"] >= 0.93
    assert shares["object"] >= 0.88
    assert shares["count"] >= 0.9


def test_unknown_tier_is_refused():
    with pytest.raises(UserError, match="xs, s, m"):
        judge(np.zeros((1, 64, 64, 3), dtype=np.uint8), tier="xxl")


def test_answers_are_words_of_the_world(verdicts):
    for verdict in verdicts:
        assert verdict.colour in axes.COLOURS
        assert verdict.object in axes.OBJECTS
        assert verdict.motion in axes.MOTIONS
