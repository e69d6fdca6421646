"""`m4v evaluate compare`: a picture of two models on a folder's captions, and input that cannot be used."""

from pathlib import Path

import numpy as np
import pytest

from m4v.cli import evaluate_compare
from m4v.cli.evaluate_compare import CompareArguments, compare
from m4v.core.errors import UserError
from m4v.media.images import read_image
from m4v.media.video import write_video
from m4v.pipelines.config import GenerationDefaults


class Pipeline:
    """A model that paints everything in one grey."""

    generation_defaults = GenerationDefaults(height=16, width=16, num_frames=5, fps=8.0)

    def __init__(self, grey: int) -> None:
        self.grey = grey
        self.prompts: list[str] = []

    def stream(self, prompt: str, **_: object):
        self.prompts.append(prompt)
        yield np.full((1, 5, 16, 16, 3), self.grey, np.uint8)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pipeline]:
    models: dict[str, Pipeline] = {}

    def open_pipeline(model: str, *_: object) -> Pipeline:
        models[model] = Pipeline(40 + 60 * len(models))
        return models[model]

    monkeypatch.setattr(evaluate_compare, "open_pipeline", open_pipeline)
    return models


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        write_video(folder / f"{number}.mp4", np.full((9, 32, 48, 3), 200, np.uint8), 8.0)
        (folder / f"{number}.txt").write_text(f"clip number {number}")
    (folder / "broken.mp4").write_bytes(b"")
    (folder / "broken.txt").write_text("never shown")
    return folder


def test_captions_spread_over_the_folder_are_the_prompts_of_both_models(opened, videos, tmp_path, capsys):
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    out = tmp_path / "sheet.png"
    compare(CompareArguments(before="base", after=str(tmp_path / "run"), data=videos, limit=2, out=out))
    assert set(opened) == {"base", str(export)}
    assert opened["base"].prompts == opened[str(export)].prompts == ["clip number 1", "clip number 3"]
    assert capsys.readouterr().out.strip() == str(out)
    sheet = read_image(out)
    for grey in (40, 100):
        assert (sheet == grey).all(axis=-1).sum() >= 2 * 8 * 16 * 16
    assert (np.abs(sheet.astype(int) - 200).max(axis=-1) < 6).sum() >= 2 * 8 * 16 * 16


def test_prompts_may_come_from_a_file(opened, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\n\na blue cube\n")
    out = tmp_path / "sheet.png"
    compare(CompareArguments(before="base", after="other", prompts=tmp_path / "prompts.txt", out=out))
    assert opened["other"].prompts == ["a red ball", "a blue cube"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "Give --data DIR"),
        ({"data": Path("x"), "prompts": Path("y")}, "Give --data DIR"),
        ({"data": Path("x"), "limit": 0}, "--limit is 0"),
        ({"data": Path("x"), "out": Path("sheet.jpg")}, r"sheet\.jpg"),
        ({"prompts": Path("nowhere.txt")}, r"Cannot read nowhere\.txt"),
    ],
)
def test_unusable_input_is_named_before_any_model_is_opened(changes, reason, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        compare(CompareArguments(before="base", after="other", **changes))
    assert opened == {}
