"""Each level of memory saving is the library's own method, given the device."""

from types import SimpleNamespace

import pytest
import torch

from m4v.pipelines.offload import place


@pytest.mark.parametrize(
    ("level", "method"),
    [("none", "to"), ("model", "enable_model_cpu_offload"), ("sequential", "enable_sequential_cpu_offload")],
)
def test_a_level_calls_one_method(level, method):
    calls = []
    accelerator = torch.device("cuda", 0)
    pipeline = SimpleNamespace(
        to=lambda device: calls.append(("to", device)),
        enable_model_cpu_offload=lambda device: calls.append(("enable_model_cpu_offload", device)),
        enable_sequential_cpu_offload=lambda device: calls.append(("enable_sequential_cpu_offload", device)),
    )
    place(pipeline, level, accelerator)
    assert calls == [(method, accelerator)]
