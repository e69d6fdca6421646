"""Temporal branches by kernels, interpreted, against the same branches on the plain torch path."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.fused_projections import FusesProjections
from m4v.models.denoiser.temporal_branch import TemporalBranch
from m4v.models.denoiser.time_plan import time_plan
from m4v.models.denoiser.wan_context import wan_context
from m4v.models.denoiser.wan_temporal_branch import WanTemporalBranch
from m4v.ops.scan_section import dispatch
from m4v.ops.time_attention import launch
from tests.assertions import assert_relative_close
from tests.diffusers_habits.offloading import lend_parameters
from tests.models.denoiser import wan_builders
from tests.models.denoiser.builders import (
    NUM_TEXT,
    debug_arguments,
    history_and_noisy,
    layout_of,
    normal,
    prompts,
    randomise,
)

TOLERANCE = 1e-5


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Mock]]:
    """Makes a backend the one of the environment; returns a count of the branches that kernels computed."""
    forward = launch.forward

    def choose(backend: str) -> Mock:
        dispatch._choose.cache_clear()
        monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", backend)
        spy = Mock(wraps=forward)
        monkeypatch.setattr(launch, "forward", spy)
        return spy

    yield choose
    dispatch._choose.cache_clear()
    torch._dynamo.reset()


class Network(FusesProjections):
    """A branch with something to hold its merged projections."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        return ()

    def forward(self, *inputs: Any) -> Tensor:
        return self.branch(*inputs)


def _pyramid(levels: tuple[int, ...], **branch: Any) -> tuple[Network, Callable[[Network], Tensor]]:
    arguments = debug_arguments(temporal_branch=branch, num_attention_heads=2, attention_head_dim=32)
    config = denoiser_config(arguments | {"rope_axes_dims": (8, 12, 12)})
    layout = layout_of(history_and_noisy(levels))
    network = Network(TemporalBranch(config)).double()
    randomise(network)
    context = sequence_context(config, layout, normal(2, config.width), prompts().mask)
    shape = (2, NUM_TEXT + layout.num_video_tokens, config.width)
    tokens, modulated = normal(*shape), normal(*shape, seed=1)

    def run(network: Network) -> Tensor:
        dtype = network.branch.gate.dtype
        with torch.no_grad():
            return network(tokens.to(dtype), modulated.to(dtype), context)

    return network, run


def _wan(frames: int) -> tuple[Network, Callable[[Network], Tensor]]:
    config = wan_builders.debug_model(num_attention_heads=2, attention_head_dim=32).settings
    network = Network(WanTemporalBranch(config)).double()
    randomise(network)
    context = wan_context(config, (frames, 2, 3), torch.ones(2, 4, dtype=torch.bool))
    modulated = normal(2, frames * 6, config.width)

    def run(network: Network) -> Tensor:
        with torch.no_grad():
            return network(modulated.to(network.branch.gate.dtype), context)

    return network, run


LEVELS = {"history and noisy": (0, 0, 1, 2), "image": (2,), "nothing to pool": (0, 0, 0)}


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("causal", [True, False])
def test_pyramid_branch(causal: bool, levels: tuple[int, ...], use: Callable[[str], Mock]) -> None:
    network, run = _pyramid(levels, causal=causal)
    expected = run(network)
    network.float()
    launched = use("triton")
    assert_relative_close(run(network), expected, TOLERANCE)
    assert launched.call_count == 1
    network.fuse_projections()
    assert_relative_close(run(network), expected, TOLERANCE)
    assert launched.call_count == 2


@pytest.mark.parametrize("frames", [2, 19])
def test_wan_branch(frames: int, use: Callable[[str], Mock]) -> None:
    network, run = _wan(frames)
    expected = run(network)
    launched = use("triton")
    assert_relative_close(run(network.float()), expected, TOLERANCE)
    assert launched.call_count == 1


def test_a_single_time_needs_values_alone(use: Callable[[str], Mock]) -> None:
    network, run = _pyramid((0,))
    expected = run(network)
    launched = use("triton")
    with torch.no_grad():
        network.branch.to_q.weight.fill_(torch.nan)
    assert_relative_close(run(network.float()), expected, TOLERANCE)
    assert launched.call_count == 0


def test_training_and_scans_over_time_stay_with_torch(use: Callable[[str], Mock]) -> None:
    launched = use("triton")
    network, run = _pyramid((0, 1), mixer="ssd")
    run(network.float())
    network, _ = _pyramid((0, 1))
    branch = network.float().branch
    plan = time_plan(layout_of(history_and_noisy((0, 1))), torch.device("cpu"))
    assert plan.cells is not None
    modulated = normal(2, len(plan.cells.cell), branch.gate.numel()).float()
    branch.residual(modulated, plan).sum().backward()
    assert branch.to_q.weight.grad is not None
    assert launched.call_count == 0


def test_offloaded_norms_are_left_to_themselves(use: Callable[[str], Mock]) -> None:
    network, run = _pyramid((0, 1))
    expected = run(network)
    network.float()
    lend_parameters(network)
    launched = use("triton")
    assert_relative_close(run(network), expected, TOLERANCE)
    assert launched.call_count == 1


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_branches_compile_whole(backend: str, use: Callable[[str], Mock]) -> None:
    for network, run in (_pyramid((0, 1, 2)), _wan(5)):
        use("reference")
        expected = run(network)
        network.float()
        launched = use("triton")
        network.branch.compile(fullgraph=True, dynamic=True, backend=backend)
        assert_relative_close(run(network), expected, TOLERANCE)
        assert launched.call_count == 1


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [*LEVELS.values(), (0,)])
def test_pyramid_branch_on_a_gpu(levels: tuple[int, ...]) -> None:
    """In bfloat16, at once and as a replayed graph."""
    network, _ = _pyramid(levels, causal=True)
    branch = network.branch
    plan = time_plan(layout_of(history_and_noisy(levels)), torch.device("cpu"))
    num_tokens = sum(frame.num_tokens for frame in layout_of(history_and_noisy(levels)).frames)
    modulated = normal(2, num_tokens, branch.gate.numel()).bfloat16()
    with torch.no_grad():
        expected = branch.bfloat16().double().residual(modulated.double(), plan)
        branch.to("cuda", torch.bfloat16)
        plan = time_plan(layout_of(history_and_noisy(levels)), torch.device("cuda"))
        modulated = modulated.cuda()
        found = branch.residual(modulated, plan)
        assert_relative_close(found.cpu(), expected, 2e-2)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = branch.residual(modulated, plan)
        graph.replay()
    assert torch.equal(replayed, found)
