import pytest
import torch

from m4v.training import precision
from m4v.training.config import VaeStageConfig
from m4v.training.vae_objective import VaeObjective

CPU = torch.device("cpu")


def no_objective(use_bf16):
    pytest.fail("a fixed setting needs no timing")


def test_fixed_settings_need_no_timing():
    assert precision.choose_bf16("bf16", CPU, no_objective) is True
    assert precision.choose_bf16("fp32", CPU, no_objective) is False


def test_a_cpu_without_fast_bf16_stays_in_fp32(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_bf16_is_faster", lambda: False)
    assert precision.choose_bf16("auto", CPU, no_objective) is False


@pytest.mark.parametrize("is_faster", [True, False])
def test_auto_takes_the_format_whose_step_is_faster(monkeypatch, is_faster):
    monkeypatch.setattr(precision, "_cpu_bf16_is_faster", lambda: True)
    monkeypatch.setattr(precision, "_step_seconds", {True: 1.0, False: 2.0 if is_faster else 0.5}.__getitem__)
    assert precision.choose_bf16("auto", CPU, lambda use_bf16: use_bf16) is is_faster


def test_timing_leaves_no_trace(networks, pool):
    objective = VaeObjective(networks.vae, pool, VaeStageConfig(), batch_size=2, seed=0, use_bf16=False)
    before = {name: value.detach().clone() for name, value in networks.vae.named_parameters()}
    assert precision._step_seconds(objective) > 0
    for name, value in networks.vae.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None or not value.grad.any()


def test_global_settings_are_left_alone_on_a_cpu():
    before = torch.get_float32_matmul_precision()
    with precision.fast_kernels(CPU):
        assert torch.get_float32_matmul_precision() == before
