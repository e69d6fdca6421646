"""`m4v evaluate toybox` from the words of a command line to its table and JSON, with a pipeline of known scores."""

import json
from types import SimpleNamespace

import pytest

from m4v.cli import evaluate
from m4v.cli.main import main
from m4v.pipelines.config import GenerationDefaults
from tests.evaluation.pipelines import PerfectPipeline


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> PerfectPipeline:
    """A perfect pipeline that opens under any name."""
    perfect = PerfectPipeline()
    facts = SimpleNamespace(generation_defaults=GenerationDefaults(), device="cpu", dtype="torch.float32")
    for name, value in vars(facts).items():
        setattr(perfect, name, value)
    monkeypatch.setattr(evaluate, "open_pipeline", lambda model, device, dtype: perfect)
    return perfect


def run(*words: object) -> int:
    return main(["evaluate", "toybox", "--model", "some-model", *map(str, words)])


def test_prints_scores_beside_their_anchors(pipeline, capsys):
    assert run("--limit", 4, "--confusions") == 0
    out = capsys.readouterr().out
    for words in ("some-model", "100.0", "true renders", "wrong captions", "noise", "held-out", "asked for"):
        assert words in out
    assert "\N{HORIZONTAL ELLIPSIS}" not in out  # no number is cut off


def test_json_on_standard_output_stands_alone(pipeline, capsys):
    assert run("--limit", 3, "--steps", "4/3", "--guidance", "6,4", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seen"]["colour"] == report["held_out"]["object"] == 1.0
    assert report["first_steps"] == 4
    assert report["later_steps"] == 3
    call = pipeline.calls[0]
    assert (call["num_inference_steps"], call["video_num_inference_steps"]) == (4, 3)
    assert (call["guidance_scale"], call["video_guidance_scale"]) == (6.0, 4.0)


def test_steps_per_level_and_a_json_file(pipeline, tmp_path):
    assert run("--limit", 2, "--steps", "4,2,1", "--json", tmp_path / "scores.json") == 0
    assert pipeline.calls[0]["num_inference_steps"] == pipeline.calls[0]["video_num_inference_steps"] == (4, 2, 1)
    assert json.loads((tmp_path / "scores.json").read_text())["model"] == "some-model"


def test_saves_what_was_judged(pipeline, tmp_path, capsys):
    assert run("--limit", 2, "--save-dir", tmp_path / "clips") == 0
    assert (tmp_path / "clips" / "seen" / "000.mp4").is_file()
    assert capsys.readouterr().out.strip().endswith("held_out.png")


def test_curve_prints_a_row_per_setting(pipeline, tmp_path, capsys):
    target = tmp_path / "curve.json"
    assert run("--limit", 2, "--steps-curve", "1", "2/1", "4,4,2/3", "--json", target) == 0
    assert "4,4,2" in capsys.readouterr().out
    rows = json.loads(target.read_text())["steps_curve"]
    assert [row["first_steps"] for row in rows] == [1, 2, [4, 4, 2]]
    assert [row["later_steps"] for row in rows] == [1, 1, 3]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--steps", "4/x"), "--steps"),
        (("--steps", "4/3/2"), "--steps"),
        (("--steps", "0"), "--steps"),
        (("--guidance", "nan"), "--guidance"),
        (("--limit", 0), "--limit"),
        (("--batch-size", 0), "--batch-size"),
        (("--steps-curve", "1", "--steps", "2"), "--steps-curve"),
        (("--json", "/proc/nowhere/scores.json"), "Cannot write"),
    ],
)
def test_bad_input_is_told_before_the_work(pipeline, words, told, capsys):
    assert run(*words) == 2
    assert told in capsys.readouterr().err
    assert not pipeline.calls
