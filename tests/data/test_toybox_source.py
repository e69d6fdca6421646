"""The procedural world as a data source."""

import json
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.folder_source import FolderSource
from m4v.data.toybox_source import ToyboxSource
from m4v.data.writer import write_dataset
from m4v.toybox.clip import make_clip


def test_clips_are_those_of_the_world() -> None:
    source = ToyboxSource("xs", seed=5, num_clips=3)
    assert len(source) == 3
    clip, truth = source.clip(2), make_clip("xs", "train", 5, 2)
    np.testing.assert_array_equal(clip.frames, truth.frames)
    assert clip.frames.shape == (17, 64, 64, 3)
    assert clip.fps == truth.fps
    assert clip.captions[0] == truth.captions.short
    assert truth.captions.long in clip.captions
    assert all(isinstance(caption, str) and caption for caption in clip.captions)
    assert clip.source == "toybox:xs/train/5/2"


def test_clips_are_repeatable_and_differ() -> None:
    source = ToyboxSource("xs", seed=5, num_clips=3)
    np.testing.assert_array_equal(source.clip(0).frames, source.clip(0).frames)
    assert not np.array_equal(source.clip(0).frames, source.clip(1).frames)
    assert not np.array_equal(source.clip(0).frames, ToyboxSource("xs", seed=6, num_clips=3).clip(0).frames)


def test_first_frames_only() -> None:
    whole, image = (ToyboxSource("xs", num_clips=1, num_frames=count).clip(0) for count in (None, 1))
    np.testing.assert_array_equal(image.frames, whole.frames[:1])
    assert image.captions == whole.captions


@pytest.mark.parametrize(
    "settings", [{"tier": "xxl"}, {"num_clips": 0}, {"num_frames": 0}, {"num_frames": 18}, {"split": "nonsense"}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    arguments = {"tier": "xs", "num_clips": 1, **settings}
    with pytest.raises(UserError):
        ToyboxSource(**arguments).clip(0)


def test_a_rendered_folder_trains_like_any_other(tmp_path: Path) -> None:
    source = ToyboxSource("xs", num_clips=2)
    write_dataset(tmp_path / "set", 2, source.labelled_clip, recipe={"tier": "xs"})
    shape = VideoShape(num_frames=17, height=64, width=64)
    folder = FolderSource(tmp_path / "set", shape=shape, fps=source.clip(0).fps, time_compression=4)
    for index in range(2):
        assert folder.clip(index).captions == source.clip(index).captions
        difference = folder.clip(index).frames.astype(float) - source.clip(index).frames
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 30
    labels = [json.loads(line) for line in (tmp_path / "set" / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == 2
    assert all(len(row) > 1 for row in labels)
