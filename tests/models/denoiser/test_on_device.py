"""The networks on a CUDA device: equal to diffusers there too, and to themselves on the CPU up to rounding."""

from dataclasses import replace

import pytest
import torch

from m4v.analysis.bench.networks import build_network, pyramid_call
from m4v.analysis.bench.variants import variant
from m4v.analysis.tokens import unit_layout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import history_and_noisy, prompts, random_model, times
from tests.models.denoiser.wan_builders import (
    SHAPES,
    TEXT_DIM,
    debug_model,
    in_dtype,
    inputs,
    stock_model,
    twin,
    velocity,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_wan_with_attention_equals_diffusers(shape: str, dtype: torch.dtype) -> None:
    stock = stock_model(shape)
    ours = twin(stock).to("cuda", dtype)
    arguments = in_dtype(inputs(lengths=(7, 100), num_rows=512, text_dim=TEXT_DIM, size=(5, 16, 24)), dtype)
    arguments = {name: value.cuda() for name, value in arguments.items()}
    assert torch.equal(velocity(ours, arguments), velocity(stock.to("cuda", dtype), arguments))


def test_wan_with_scans_equals_itself_on_the_cpu() -> None:
    model, arguments = debug_model(mixer_plan="full"), inputs()
    expected = velocity(model, arguments)
    there = velocity(model.cuda(), {name: value.cuda() for name, value in arguments.items()})
    assert_relative_close(there.cpu(), expected, 1e-3)  # cuDNN convolves the patches in TF32


@pytest.mark.parametrize("plan", ["attention-only", "full", "parallel"])
def test_the_pyramid_network_equals_itself_on_the_cpu(plan: str) -> None:
    model = random_model(mixer_plan=plan).double()
    clips, text = history_and_noisy((0, 0, 1, 2), base=(2, 4)), prompts()
    with torch.no_grad():
        expected = model(clips, times(), text)
        there = [type(clip)(clip.latents.cuda(), clip.level) for clip in clips]
        found = model.cuda()(there, times().cuda(), text.to("cuda"))
    assert_relative_close(found.cpu(), expected, 1e-4)  # the timestep's waves are float32 on both


@pytest.mark.parametrize("name", ["attention", "m4v", "dual_mamba"])
def test_a_training_step_of_the_longest_sequence_of_768p(name: str) -> None:
    base = replace(PRESETS["pyramid-2b"], num_dual_layers=1, num_single_layers=1)
    layout = unit_layout(base, LatentShape(num_units=31, height=96, width=160), 30, 2, 128)
    device, dtype = torch.device("cuda"), torch.bfloat16
    network = build_network(variant(base, name), device, dtype).train()
    call = pyramid_call(base, layout, batch_size=1, dtype=dtype, device=device)
    network(*call.arguments).float().square().mean().backward()
    torch.cuda.synchronize()
    grads = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads.values())


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_compiled_network_has_the_same_gradients(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M4V_SCAN_BACKEND", backend)
    model = random_model(mixer_plan="full").float().cuda().train()
    clips, text = history_and_noisy((0, 0, 1, 2), base=(2, 4)), prompts()
    there = [type(clip)(clip.latents.float().cuda(), clip.level) for clip in clips]

    def grads() -> dict[str, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            found = model(there, times().cuda(), text.to("cuda", torch.float32))
        found.float().square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = grads()
    model.compile_repeated_blocks(dynamic=True)
    found = grads()
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 0.1 * grad.norm() + 1e-6, name
