"""Curves and their summary from metrics files."""

import importlib.util
import json
import logging

import pytest

from m4v.media.images import read_image
from m4v.training.curves import read_curves, smoothed, summary, write_curves


@pytest.fixture
def metrics(tmp_path):
    lines = [{"step": 0, "stage": "vae", "validation/psnr": 20.0}]
    for step in range(1, 31):
        line = {"step": step, "stage": "t2v", "loss": 3.0 / step, "lr": 1e-3, "grad_norm": 1.0}
        line[f"loss/level-{step % 3}"] = 3.0 / step
        line[f"loss/unit-{step % 2}"] = 4.0 if step % 2 else 2.0
        lines.append(line)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "stage": "t2v", "lo')
    return path


def test_a_cut_off_line_and_lines_without_loss_are_passed_over(metrics):
    (stage,) = read_curves(metrics)
    assert stage.name == "t2v"
    assert stage.steps == list(range(1, 31))
    assert stage.names("loss/level-") == ["loss/level-0", "loss/level-1", "loss/level-2"]


def test_losses_by_unit_are_means_over_the_lines_that_have_them(metrics):
    (stage,) = read_curves(metrics)
    assert stage.by_unit(slice(None)) == {0: 2.0, 1: 4.0}
    assert stage.by_unit(slice(0, 1)) == {1: 4.0}


def test_the_summary_tells_first_and_last_loss_by_level_and_unit(metrics):
    text = summary(metrics)
    first = sum(3.0 / step for step in range(1, 11)) / 10
    last = sum(3.0 / step for step in range(21, 31)) / 10
    assert f"t2v: loss {first:.4g} -> {last:.4g} over 30 lines up to step 30" in text
    assert "by unit: 0: 2 -> 2, 1: 4 -> 4" in text


def test_smoothing_keeps_length_and_mean_of_a_line():
    values = [float(value) for value in range(100)]
    assert len(smoothed(values)) == 100
    assert smoothed(values)[50] == 50.0
    assert smoothed([]) == []
    assert smoothed([1.0]) == [1.0]


def test_units_above_nine_are_in_numeric_order(tmp_path):
    line = {"step": 1, "stage": "t2v", "loss": 1.0} | {f"loss/unit-{unit}": 1.0 for unit in range(12)}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (stage,) = read_curves(tmp_path / "metrics.jsonl")
    assert list(stage.by_unit(slice(None))) == list(range(12))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs Matplotlib")
def test_a_picture_is_drawn(metrics, tmp_path):
    path = write_curves(metrics, tmp_path / "curves.png")
    picture = read_image(path)
    assert picture.shape[1] == 1200
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)[::7]}) > 10
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_without_matplotlib_one_line_says_so(metrics, tmp_path, monkeypatch, caplog):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    with caplog.at_level(logging.WARNING):
        assert write_curves(metrics, tmp_path / "curves.png") is None
    assert "m4v[report]" in caplog.text
    assert not (tmp_path / "curves.png").exists()


def test_a_run_without_a_loss_has_no_picture(tmp_path):
    assert write_curves(tmp_path / "none.jsonl", tmp_path / "curves.png") is None
