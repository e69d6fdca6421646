"""Scenes: pure functions of their arguments, within their tier, and checked before use."""

import json
from dataclasses import replace

import pytest

from m4v.core.errors import UserError
from m4v.toybox.captions import parse
from m4v.toybox.checks import violations
from m4v.toybox.facts import facts_of, is_true
from m4v.toybox.records import MotionStep, Relation, Scene
from m4v.toybox.scene import sample_scene, scene_from_facts
from m4v.toybox.tiers import TIERS, get_tier
from tests.toybox.scenes import make_object, make_scene


@pytest.mark.parametrize("tier", TIERS)
def test_scenes_depend_on_their_arguments_only(tier: str) -> None:
    first = [sample_scene(5, index, tier) for index in range(12)]
    again = [sample_scene(5, index, tier) for index in reversed(range(12))][::-1]
    assert first == again
    assert len({scene.seed for scene in first}) == 12
    assert sample_scene(6, 0, tier) != first[0]
    assert sample_scene(5, 0, tier, "iid") != first[0]


@pytest.mark.parametrize("tier", TIERS)
def test_records_survive_json(tier: str) -> None:
    for index in range(10):
        scene = sample_scene(0, index, tier)
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize("name", TIERS)
def test_scenes_stay_within_their_tier_and_pass_the_checks(name: str) -> None:
    tier = get_tier(name)
    for index in range(40):
        scene = sample_scene(2, index, name)
        assert violations(scene, tier) == ()
        assert 1 <= len(scene.objects) <= tier.max_objects
        assert scene.camera in tier.cameras
        assert scene.ground in tier.grounds
        assert scene.sky in tier.skies
        for item in scene.objects:
            assert item.kind in tier.objects
            assert item.colour in tier.colours
            assert item.material in tier.materials
            assert {step.name for step in item.motions} <= set(tier.motions)
        assert is_true(facts_of(scene), scene)


def test_the_whole_world_appears() -> None:
    scenes = [sample_scene(4, index, "m") for index in range(400)]
    tier = get_tier("m")
    items = [item for scene in scenes for item in scene.objects]
    assert {item.kind for item in items} == set(tier.objects)
    assert {item.colour for item in items} == set(tier.colours)
    assert {item.material for item in items} == set(tier.materials)
    assert {step.name for item in items for step in item.motions} == set(tier.motions)
    assert {relation.name for scene in scenes for relation in scene.relations} == set(tier.relations)
    assert {scene.camera for scene in scenes} == set(tier.cameras)
    counts = [sum(len(scene.objects) == count for scene in scenes) / 400 for count in (1, 2, 3)]
    assert counts == pytest.approx([0.45, 0.35, 0.2], abs=0.08)


def test_checks_find_what_does_not_show() -> None:
    xs, m = get_tier("xs"), get_tier("m")
    assert violations(make_scene(make_object()), xs) == ()
    assert violations(make_scene(make_object(scale=0.15)), xs) == ("object 0 is too small",)
    assert violations(make_scene(make_object(position=(2.0, 0.0, 0.0))), xs) == ("object 0 is hidden",)
    hardly = make_object(motions=(MotionStep(name="left", amount=0.05),))
    assert violations(make_scene(hardly), xs) == ("object 0 hardly moves",)
    inside = make_scene(make_object(), make_object("cube", position=(0.3, 0.0, 0.0)))
    assert violations(inside, m) == ("objects pass through each other",)
    left = make_scene(
        make_object(position=(-1.0, 0.0, 0.0)),
        make_object("cube", position=(1.0, 0.0, 0.0)),
        relations=(Relation(name="left of", subject=0, target=1),),
    )
    assert violations(left, m) == ()
    wrong = replace(left, relations=(Relation(name="left of", subject=1, target=0),))
    assert violations(wrong, m) == ("not left of",)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red ball rolls to the left on the grass",
        "a green snowman behind a purple tree. the camera orbits",
        "a red ball on top of a blue cube",
        "a duck chases a truck at sunset",
        "a yellow car bumps into a green robot on a wooden floor",
        "three orange mushrooms jump on a lawn",
        "a rocket falls from the sky, then jumps",
        "a giraffe at night",
        "",
    ],
)
def test_prompts_become_scenes(prompt: str) -> None:
    facts = parse(prompt)
    scene = scene_from_facts(facts, 0, "m")
    assert scene == scene_from_facts(facts, 0, "m")
    assert is_true(replace(facts, unknown_words=()), scene)
    assert violations(scene, get_tier("m")) == ()


def test_alike_objects_look_alike() -> None:
    scene = scene_from_facts(parse("two ducks"), 3, "m")
    first, second = scene.objects
    assert (first.colour, first.material) == (second.colour, second.material)


def test_impossible_company_still_becomes_a_scene() -> None:
    assert len(scene_from_facts(parse("a ball chases a cube that jumps"), 0, "xs").objects) == 2
    assert len(scene_from_facts(parse("a ball chases a cube. the cube chases the ball"), 0, "s").objects) == 2
    with pytest.raises(UserError, match="at most 8"):
        scene_from_facts(parse("three balls, three cubes and three cars"), 0, "m")


@pytest.mark.parametrize(
    ("tier", "split", "index"), [("xl", "train", 0), ("xs", "test", 0), ("xs", "count", 0), ("xs", "train", -1)]
)
def test_unknown_tiers_splits_and_indices_are_refused(tier: str, split: str, index: int) -> None:
    with pytest.raises(UserError):
        sample_scene(0, index, tier, split)
