"""Captions say nothing false, are read back exactly, and use only known words."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m4v.toybox import lexicon
from m4v.toybox.captions import VOCABULARY, canonical_caption, parse, write_captions
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene, is_true
from m4v.toybox.records import Relation
from m4v.toybox.scene import sample_scene


@settings(max_examples=150)
@given(
    tier=st.sampled_from(["xs", "s", "m"]),
    index=st.integers(0, 10**6),
    seed=st.integers(0, 2**31),
    is_paraphrase=st.booleans(),
)
def test_captions_are_true_and_read_back(tier: str, index: int, seed: int, is_paraphrase: bool) -> None:
    scene = sample_scene(7, index, tier)
    captions = write_captions(scene, seed, is_paraphrase=is_paraphrase)
    for text, facts in zip(captions.texts, (captions.short_facts, captions.long_facts), strict=True):
        assert parse(text) == facts, text
        assert is_true(facts, scene), text
        assert set(re.findall("[a-z]+", text)) <= set(VOCABULARY)
    assert is_true(parse(canonical_caption(scene)), scene)


@settings(max_examples=200)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from([*VOCABULARY, ".", "giraffe"]), max_size=14)))
def test_anything_can_be_typed(typed: str | list[str]) -> None:
    text = typed if isinstance(typed, str) else " ".join(typed)
    facts = parse(text)
    for index, item in enumerate(facts.objects):
        for step in item.motions:
            assert step.target is None or (0 <= step.target < len(facts.objects) and step.target != index)
    assert not set(facts.unknown_words) & set(VOCABULARY)


def test_the_long_form_states_everything() -> None:
    for index in range(40):
        scene = sample_scene(0, index, "m")
        facts = write_captions(scene, index).long_facts
        assert len(facts.objects) == len(scene.objects)
        assert len(facts.relations) == len(scene.relations)
        assert (facts.camera, facts.ground, facts.sky, facts.light) == (
            scene.camera,
            scene.ground,
            scene.sky,
            scene.light,
        )
        for item in facts.objects:
            assert item.kind
            assert item.colour
            assert item.material


def test_short_captions_leave_facts_out_and_wordings_vary() -> None:
    scene = sample_scene(0, 0, "m")
    texts = {write_captions(scene, seed).short for seed in range(60)}
    assert len(texts) > 45
    scene = sample_scene(0, 0, "xs")
    grounds = [write_captions(scene, seed).short_facts.ground for seed in range(400)]
    assert 0.2 < grounds.count(None) / 400 < 0.4


def test_vocabulary_size() -> None:
    assert 180 <= len(VOCABULARY) <= 220
    assert list(VOCABULARY) == sorted(set(VOCABULARY))


def test_held_out_wordings_use_trained_words_and_never_appear_in_training() -> None:
    tables = (
        lexicon.MOTIONS,
        lexicon.RELATIONS,
        lexicon.CAMERAS,
        lexicon.GROUNDS,
        lexicon.SKIES,
        lexicon.LIGHTS,
        {"opening": lexicon.OPENINGS},
    )
    held, trained = [], ["an"]
    for table in tables:
        for variants in table.values():
            assert len(variants) >= 2
            held.append(variants[-1])
            trained += variants[:-1]
    words = set(re.findall("[a-z]+", " ".join(trained)))
    assert set(re.findall("[a-z]+", " ".join(held))) <= words
    texts = [text for index in range(150) for text in write_captions(sample_scene(0, index, "m"), index).texts]
    only_held = ("toward the left", "stands in place", "on the lawn", "in the studio", "a video with", "on the top of")
    assert not [text for text in texts for phrase in only_held if phrase in text]
    held_texts = " ".join(
        text
        for index in range(150)
        for text in write_captions(sample_scene(0, index, "m"), index, is_paraphrase=True).texts
    )
    assert all(phrase in held_texts for phrase in only_held[:5])


def test_typed_prompts() -> None:
    facts = parse("a red ball rolls to the left on the grass")
    assert facts == PartialScene(
        objects=(ObjectFacts(kind="ball", colour="red", motions=(MotionFact(name="left"),)),), ground="grass"
    )
    facts = parse("A big RED giraffe, spinning; the blue cube falls!")
    assert facts.unknown_words == ("giraffe", "spinning")
    assert facts.objects[0] == ObjectFacts(colour="red", size="large", motions=(MotionFact(name="spins"),))
    assert facts.objects[1].motions == (MotionFact(name="falls"),)
    facts = parse("two green cubes jump, then a duck chases a truck. the truck drives left")
    assert [item.kind for item in facts.objects] == ["cube", "cube", "duck", "truck"]
    assert facts.objects[0].motions == facts.objects[1].motions == (MotionFact(name="jumps"),)
    assert facts.objects[2].motions == (MotionFact(name="chases", target=3),)
    assert facts.objects[3].motions == (MotionFact(name="left"),)
    facts = parse("the ball is red and behind a tree at night. the camera moves closer")
    assert facts.objects[0].colour == "red"
    assert facts.relations == (Relation(name="behind", subject=0, target=1),)
    assert (facts.sky, facts.camera) == ("night", "moves closer")
    assert facts.objects[0].motions == ()
    assert parse("") == PartialScene()


@pytest.mark.parametrize(
    ("text", "ground", "material"),
    [
        ("a checkered ball on a checkered floor", "checkered floor", "checkered"),
        ("a ball on a wooden floor", "wood", None),
    ],
)
def test_the_floor_is_not_the_ball(text: str, ground: str, material: str | None) -> None:
    facts = parse(text)
    assert facts.ground == ground
    assert facts.objects[0].material == material
