import json

import pytest
import torch

from m4v.training.metrics import JsonlSink, MeanMeter, open_sinks


def test_means_are_per_name_and_start_anew():
    meter = MeanMeter()
    meter.add({"a": torch.tensor(1.0)})
    meter.add({"a": torch.tensor(3.0), "b": torch.tensor(5.0)})
    assert meter.take() == {"a": 2.0, "b": 5.0}
    assert meter.take() == {}


def test_resuming_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, resumed_step=0)
    for step in (1, 2, 3):
        sink.write(step, {"loss": float(step)})
    sink.close()
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    sink = JsonlSink(path, resumed_step=2)
    sink.write(3, {"loss": 30.0})
    sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_text_values_reach_the_json_lines_only(tmp_path):
    sink = open_sinks(tmp_path, resumed_step=0)
    sink.write(1, {"stage": "vae", "loss": 0.5})
    sink.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "stage": "vae", "loss": 0.5}


def test_means_of_many_steps_are_exact_enough():
    meter = MeanMeter()
    for value in range(1000):
        meter.add({"x": torch.tensor(float(value))})
    assert meter.take()["x"] == pytest.approx(499.5)
