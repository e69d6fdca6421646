"""Result files of VBench, good and bad."""

import json
import zipfile
from pathlib import Path

import pytest

from m4v.core.errors import UserError
from m4v.evaluation.vbench.dimensions import DIMENSIONS
from m4v.evaluation.vbench.results import read_results

VIDEOS = [{"video_path": "a-0.mp4", "video_results": 0.5}, {"video_path": "a-1.mp4", "video_results": 0.7}]


def _write(folder: Path, name: str, content: object) -> Path:
    path = folder / f"{name}_eval_results.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_a_folder_and_a_zip_say_the_same(tmp_path: Path) -> None:
    scores = {name: 0.25 + 0.01 * number for number, name in enumerate(DIMENSIONS)}
    one = tmp_path / "one"
    one.mkdir()
    for name, value in scores.items():
        _write(one, name, {name: [value, VIDEOS]})
    (one / "x_full_info.json").write_text("[]")
    single = _write(tmp_path, "all", {name.replace("_", " "): [value, VIDEOS] for name, value in scores.items()})
    packed = tmp_path / "submission.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in one.iterdir():
            archive.write(file, f"results/{file.name}")
    for place in (one, single, packed):
        found = read_results(place)
        assert {name: entry.raw for name, entry in found.items()} == scores
        assert {entry.num_videos for entry in found.values()} == {2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"color": [NaN, [1]]}', "finite"),
        ('{"color": [0.5, []]}', "no videos"),
        ('{"color": ["0.5", [1]]}', "finite"),
        ('{"color": [0.5, ', "cut off"),
        ('{"camera_motion": [0.5, [1]]}', "camera_motion"),
        ("[1, 2]", "object"),
        ("{}", "no VBench results"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a_eval_results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(path)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "first", {"color": [0.5, VIDEOS]})
    _write(tmp_path, "second", {"color": [0.6, VIDEOS]})
    with pytest.raises(UserError, match=r"first_eval.*second_eval"):
        read_results(tmp_path)


def test_a_missing_place_and_a_broken_zip_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_results(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="no VBench results"):
        read_results(tmp_path)
