"""The tracker of live tensors: what it counts, and how close it comes to what torch's allocator really handed out."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from m4v.analysis.denoising_memory import pyramid_activations, pyramid_inputs, wan_activations
from m4v.analysis.live_memory import peak_bytes
from m4v.analysis.tokens import unit_layout
from m4v.core.config_io import to_plain
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import PRESETS as WAN_PRESETS

KIB = 1024
LATENT = LatentShape(num_units=5, height=16, width=16)


def _kib(count: int) -> torch.Tensor:
    return torch.zeros(count * KIB // 4, device="meta")


def test_only_what_is_alive_counts() -> None:
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(5):
            x = x + 1
        return x

    # Caller's input, the value before, and the one being made.
    assert peak_bytes(chain, _kib(8)) == 3 * 8 * KIB


def test_views_cost_nothing_and_keep_their_base() -> None:
    def hold_a_view(x: torch.Tensor) -> torch.Tensor:
        corner = (x + 1)[:4]
        return corner.new_zeros(2 * KIB // 4)

    assert peak_bytes(hold_a_view, _kib(8)) == (8 + 8 + 2) * KIB


def test_weights_and_work_in_place_are_left_out() -> None:
    weight = _kib(64)
    assert peak_bytes(lambda x: x.mul_(2), _kib(8), weights=[weight]) == 8 * KIB
    assert peak_bytes(lambda x: (x + 1, weight.view(-1)), _kib(8), weights=[weight]) == 16 * KIB


def test_attention_never_writes_out_all_pairs() -> None:
    query = torch.zeros(1, 2, 64, 8, device="meta")
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool, device="meta")
    inputs, output = 4 * 1024 * 1 + 4096, 4 * 1024
    assert peak_bytes(scaled_dot_product_attention, query, query, query) == 2 * output
    # A mask becomes numbers for the time of the call.
    assert peak_bytes(scaled_dot_product_attention, query, query, query, mask) == inputs + 4 * 4096 + output


def _allocated(function: Callable[[], object]) -> int:
    """Most bytes that torch's allocator handed out at once, beyond those at the start; kernel workspaces included."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _pyramid(config: DenoiserConfig) -> tuple[int, int]:
    layout = unit_layout(config, LATENT, 4, 2, 32)
    estimate = pyramid_activations(config, layout, batch_size=2, dtype=torch.float32)
    model = M4VTransformer3DModel(**to_plain(config))
    return estimate, _allocated(lambda: model(*pyramid_inputs(config, layout, 2, torch.float32, "cpu")))


@pytest.mark.parametrize("plan", ["attention-only", "full", "parallel"])
def test_activations_of_a_call_are_those_the_allocator_hands_out(plan: str) -> None:
    """Real network with all its layers; a kernel's workspace may come on top."""
    estimate, allocated = _pyramid(replace(PRESETS["debug"], mixer_plan=plan))
    assert 0.9 * allocated <= estimate <= 1.1 * allocated


@pytest.mark.parametrize("plan", ["attention-only", "full"])
def test_activations_of_a_wan_call(plan: str) -> None:
    config = replace(WAN_PRESETS["wan-debug"], mixer_plan=plan)
    estimate = wan_activations(config, (5, 12, 12), num_text_tokens=16, dtype=torch.float32)
    model = WanM4VTransformer3DModel(**to_plain(config))
    allocated = _allocated(
        lambda: model(torch.zeros(1, 16, 5, 24, 24), torch.zeros(1), torch.zeros(1, 16, config.text_dim))
    )
    assert 0.9 * allocated <= estimate <= 1.1 * allocated
