"""What training never shows, and the fixed prompt lists."""

import numpy as np
import pytest

from m4v.toybox import axes
from m4v.toybox.captions import parse
from m4v.toybox.checks import violations
from m4v.toybox.drawing import Drawer
from m4v.toybox.facts import PartialScene, is_true
from m4v.toybox.heldout import (
    is_held_out_group,
    is_held_out_motion,
    is_held_out_pair,
    is_held_out_relation,
)
from m4v.toybox.palette import CLASHES
from m4v.toybox.scene import sample_scene
from m4v.toybox.splits import evaluation_prompts
from m4v.toybox.tiers import TIERS, get_tier


def held_out_cells(facts: PartialScene) -> set[str]:
    """Names of the splits whose held-out cells appear in a record."""
    found = set()
    for item in facts.objects:
        assert item.kind
        assert item.colour
        if is_held_out_pair(item.kind, item.colour):
            found.add("attribute")
        if any(is_held_out_motion(item.kind, step.name) for step in item.motions):
            found.add("motion")
    for relation in facts.relations:
        assert facts.camera
        if is_held_out_relation(relation.name, facts.camera):
            found.add("relation")
    first = facts.objects[0]
    if len(set(facts.objects)) == 1 and is_held_out_group(first.kind or "", len(facts.objects)):
        found.add("count")
    return found


def draw(tier: str, split: str, count: int) -> list[PartialScene]:
    rng = np.random.Generator(np.random.Philox(key=11))
    drawer = Drawer(rng, get_tier(tier), split)
    return [drawer.facts(drawer.count()) for _ in range(count)]


def test_the_rules_hold_out_the_pairs_they_name() -> None:
    held = {(kind, colour) for kind in axes.OBJECTS for colour in axes.COLOURS if is_held_out_pair(kind, colour)}
    assert {("ball", "yellow"), ("car", "orange"), ("tree", "purple"), ("snowman", "red")} <= held
    assert len(held) == len(axes.OBJECTS)
    cells = [(r, c) for r in axes.RELATIONS for c in axes.CAMERAS if is_held_out_relation(r, c)]
    assert len(cells) == len(axes.RELATIONS) * len(axes.CAMERAS) // 7
    assert all(camera != "static" for _, camera in cells)


@pytest.mark.parametrize("tier", TIERS)
def test_training_never_draws_a_held_out_cell(tier: str) -> None:
    assert not set().union(*map(held_out_cells, draw(tier, "train", 20_000 if tier == "xs" else 8_000)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tier", TIERS)
def test_training_never_draws_a_held_out_cell_in_a_million(tier: str) -> None:
    assert not set().union(*map(held_out_cells, draw(tier, "train", 1_000_000)))


@pytest.mark.parametrize("tier", TIERS)
def test_training_records_and_clashes(tier: str) -> None:
    for index in range(60):
        scene = sample_scene(9, index, tier)
        assert all((item.colour, scene.ground) not in CLASHES for item in scene.objects)
    facts = draw(tier, "train", 3000)
    assert all((item.colour, record.ground) not in CLASHES for record in facts for item in record.objects)


@pytest.mark.parametrize(
    ("tier", "split"),
    [("xs", "attribute"), ("xs", "motion"), ("m", "attribute"), ("m", "motion"), ("m", "relation"), ("m", "count")],
)
def test_each_split_shows_its_own_cells(tier: str, split: str) -> None:
    cells = [held_out_cells(facts) for facts in draw(tier, split, 1500)]
    share = sum(split in found for found in cells) / len(cells)
    assert share == 1.0
    assert set().union(*cells) == {split}


def test_splits_without_cells_and_long_clips() -> None:
    for split in ("iid", "paraphrase", "long"):
        assert not set().union(*map(held_out_cells, draw("s", split, 1500)))
    assert sample_scene(0, 0, "xs", "long").num_frames == 33


@pytest.mark.parametrize("tier", TIERS)
def test_evaluation_prompts(tier: str) -> None:
    prompts = evaluation_prompts(tier)
    assert len(prompts.seen) >= 60
    assert len({prompt.text for prompt in prompts.seen}) == len(prompts.seen)
    assert len({prompt.text for prompt in prompts.held_out}) == len(prompts.held_out)
    for group, is_held_out in ((prompts.seen, False), (prompts.held_out, True)):
        for prompt in group:
            (item,) = prompt.scene.objects
            assert is_held_out_pair(item.kind, item.colour) == is_held_out
            assert not is_held_out_motion(item.kind, item.motions[0].name)
            assert is_true(parse(prompt.text), prompt.scene)
            assert item.kind in prompt.text
            assert item.colour in prompt.text
        assert {step.name for prompt in group for step in prompt.scene.objects[0].motions} >= {"left", "right", "jumps"}
    pairs: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for prompt in prompts.held_out:
        (item,) = prompt.scene.objects
        pairs.setdefault((item.kind, item.colour), set()).add((item.motions[0].name, prompt.scene.ground))
    assert all(len(settings) == 20 for settings in pairs.values())
    assert not [prompt.text for prompt in prompts.seen if violations(prompt.scene, get_tier(tier))]


def test_the_small_tier_holds_out_what_the_rules_say() -> None:
    prompts = evaluation_prompts("xs")
    pairs = {(item.kind, item.colour) for prompt in prompts.held_out for item in prompt.scene.objects}
    assert pairs == {("ball", "yellow"), ("car", "orange"), ("tree", "purple")}
    assert len(prompts.held_out) == 60
    assert len(prompts.seen) == 66
