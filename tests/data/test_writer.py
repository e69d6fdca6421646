"""Dataset folders: what is written is what is read, and an interruption costs nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.clip import Clip, LabelledClip
from m4v.data.folder_source import FolderSource
from m4v.data.writer import write_dataset
from tests.data.folders import numbered_frames, numbers_of

RECIPE = {"tier": "xs", "seed": 3}


def make(index: int) -> LabelledClip:
    clip = Clip(numbered_frames(1 if index == 2 else 5), (f"short {index}", f"long {index}"), 8.0, f"made:{index}")
    return LabelledClip(clip, {"colour": "red", "boxes": np.arange(4) + index, "share": np.float32(0.5)})


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_written_folder_reads_back(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = write_dataset(
        tmp_path / "set", 4, make, recipe=RECIPE, on_progress=lambda done, total: calls.append((done, total))
    )
    assert (result.num_written, result.num_reused) == (4, 0)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    source = FolderSource(result.root, shape=VideoShape(num_frames=5, height=32, width=32), fps=8, time_compression=4)
    clips = [source.clip(index) for index in range(len(source))]
    assert [numbers_of(clip.frames) for clip in clips] == [list(range(len(make(i).clip.frames))) for i in range(4)]
    assert [clip.captions for clip in clips] == [make(index).clip.captions for index in range(4)]
    labels = rows(tmp_path / "set" / "labels.jsonl")
    assert labels[1] == {"file_name": "videos/000001.mp4", "colour": "red", "boxes": [1, 2, 3, 4], "share": 0.5}
    assert rows(tmp_path / "set" / "metadata.jsonl")[2]["file_name"] == "images/000002.png"
    assert json.loads((tmp_path / "set" / "dataset.json").read_text()) == RECIPE


def content_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_an_interrupted_folder_is_completed(tmp_path: Path, stop_at: int) -> None:
    def interrupted(index: int) -> LabelledClip:
        if index == stop_at:
            raise KeyboardInterrupt
        return make(index)

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", 5, interrupted, recipe=RECIPE)
    made: list[int] = []

    def counted(index: int) -> LabelledClip:
        made.append(index)
        return make(index)

    result = write_dataset(tmp_path / "set", 5, counted, recipe=RECIPE)
    assert made == list(range(stop_at, 5))
    assert result.num_reused == stop_at
    write_dataset(tmp_path / "whole", 5, make, recipe=RECIPE)
    assert content_of(tmp_path / "set") == content_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["metadata.jsonl", "labels.jsonl"])
def test_a_row_cut_in_the_middle_is_made_again(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    write_dataset(root, 3, make, recipe=RECIPE)
    whole = content_of(root)
    (root / name).write_bytes((root / name).read_bytes()[:-20])
    assert write_dataset(root, 3, make, recipe=RECIPE).num_written == 1
    assert content_of(root) == whole


def test_a_deleted_video_is_made_again_and_a_folder_can_grow(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_dataset(root, 3, make, recipe=RECIPE)
    (root / "videos" / "000001.mp4").unlink()
    result = write_dataset(root, 5, make, recipe=RECIPE)
    assert (result.num_written, result.num_reused) == (3, 2)
    assert sorted(row["index"] for row in rows(root / "metadata.jsonl")) == list(range(5))


def test_other_recipes_and_other_folders_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 1, make, recipe=RECIPE)
    with pytest.raises(UserError, match=r"'seed': 3.*'seed': 4"):
        write_dataset(tmp_path / "set", 1, make, recipe={**RECIPE, "seed": 4})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        write_dataset(tmp_path / "mine", 1, make, recipe=RECIPE)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        write_dataset(tmp_path / "file" / "set", 1, make, recipe=RECIPE)


def test_errors_of_the_maker_surface(tmp_path: Path) -> None:
    def fails(index: int) -> LabelledClip:
        raise RuntimeError("renderer failed")

    with pytest.raises(RuntimeError, match="renderer failed"):
        write_dataset(tmp_path / "set", 1, fails, recipe=RECIPE)
