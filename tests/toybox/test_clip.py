"""Clips: pure functions with labels that fit their pictures."""

import json

import numpy as np

from m4v.toybox.captions import parse
from m4v.toybox.clip import make_clip
from m4v.toybox.facts import is_true
from m4v.toybox.records import Scene


def test_a_clip_is_a_pure_function_of_its_arguments() -> None:
    first, again, other = make_clip("xs", "train", 0, 4), make_clip("xs", "train", 0, 4), make_clip("xs", "train", 0, 5)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.captions == again.captions
    assert first.labels == again.labels
    assert (first.frames != other.frames).any()


def test_labels_fit_the_picture() -> None:
    clip = make_clip("s", "iid", 1, 3)
    labels = json.loads(json.dumps(clip.labels))
    assert Scene.from_json(labels["scene"]) == clip.scene
    assert (labels["tier"], labels["split"], labels["seed"], labels["index"]) == ("s", "iid", 1, 3)
    assert labels["renderer_version"] >= 1
    assert clip.frames.shape == (17, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.fps == 8
    for item in labels["objects"]:
        assert len(item["box"]) == len(item["visible_share"]) == len(item["centre"]) == 17
    eye, forward = np.array(labels["camera"]["eye"][0]), np.array(labels["camera"]["forward"][0])
    right = np.array(labels["camera"]["right"][0])
    ray = np.array(labels["objects"][0]["centre"][0]) - eye
    column = 32 + 32 * (ray @ right) / (ray @ forward) / labels["camera"]["tan_half_view"]
    left, _, end, _ = labels["objects"][0]["box"][0]
    assert left - 6 < column < end + 6


def test_captions_of_every_split_are_true() -> None:
    for split in ("train", "paraphrase", "long", "attribute"):
        clip = make_clip("xs", split, 0, 0)
        assert all(is_true(parse(text), clip.scene) for text in clip.captions.texts)
        assert len(clip.frames) == (33 if split == "long" else 17)
