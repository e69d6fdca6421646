import importlib.util
import json
import sys

import pytest
import torch

from m4v.core.errors import UserError
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


class Service:
    """Stands for wandb: notes what it is told."""

    def __init__(self):
        self.calls = []

    def init(self, **options):
        self.calls.append(("init", options))

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append(("finish", None))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_numbers_with_the_global_step_only(tmp_path, monkeypatch, name):
    service = Service()
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: object() if wanted == name else None)
    monkeypatch.setitem(sys.modules, name, service)
    sink = open_sinks(tmp_path / "mine", resumed_step=0, trackers=(name,))
    sink.write(7, {"stage": "t2v", "stage_step": 2, "loss": 0.5})
    sink.close()
    (first, options), *rest = service.calls
    assert first == "init"
    assert (options["name"], options["resume"]) == ("mine", "allow")
    assert rest == [(7, {"stage_step": 2, "loss": 0.5}), ("finish", None)]


def test_a_missing_tracker_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None)
    with pytest.raises(UserError, match=r"m4v\[wandb\]"):
        open_sinks(tmp_path, resumed_step=0, trackers=("wandb",))
    assert not (tmp_path / "metrics.jsonl").exists()
