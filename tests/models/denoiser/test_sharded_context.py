"""A sequence shared by ranks: the same velocity and the same gradients as in one process."""

from dataclasses import dataclass, field
from itertools import combinations_with_replacement, pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from m4v.core.errors import UserError
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser import sharded_context
from m4v.models.denoiser.frame_spans import FrameSpans, frame_spans
from m4v.models.denoiser.sharded_context import shard_sequence
from m4v.models.denoiser.time_plan import TimePlan, part_of_time_plan
from m4v.ops.context_parallel.heads import HeadExchange, share_heads
from tests.models.denoiser.builders import history_and_noisy, prompts, random_model
from tests.ranks import on_ranks


@dataclass(frozen=True)
class Case:
    """A network and the frames it sees."""

    changes: dict[str, Any] = field(default_factory=dict)
    levels: tuple[int, ...] = (0, 0, 1, 2)
    dtype: torch.dtype = torch.float64
    recomputes: bool = False
    fault: str | None = None


def evaluate(case: Case, shared: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Velocity, and gradients of all parameters, averaged over the ranks that share the sequence."""
    heads = {"num_attention_heads": 3, "attention_head_dim": 8}
    model = random_model(dtype=case.dtype, **heads | case.changes)
    if case.recomputes:
        model.enable_gradient_checkpointing()
        model.train()
    if shared:
        shard_sequence(model)
    if case.fault is not None:
        break_something(case.fault)
    clips = history_and_noisy(case.levels, dtype=case.dtype)
    timesteps = torch.tensor([700.0, 31.0], dtype=case.dtype)
    velocity = model(clips, timesteps, prompts(dtype=case.dtype))
    velocity.square().sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        # Also on a rank without tokens: shards of a parameter are reduced together.
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad
        if shared:
            dist.all_reduce(gradients[name])
            gradients[name] /= dist.get_world_size()
    return velocity.detach(), gradients


def break_something(fault: str) -> None:
    """Let ranks miss something of each other, in a process of its own."""
    if fault == "times":
        part = part_of_time_plan

        def alone(*arguments: Any) -> TimePlan:
            plan = part(*arguments)
            assert isinstance(plan.sharing, HeadExchange)
            return TimePlan(plan.times, torch.eye(len(plan.times), dtype=torch.bool), plan.cells, plan.sharing)

        sharded_context.part_of_time_plan = alone  # type: ignore[assignment]
    elif fault == "tokens":
        mix = HeadExchange.mix
        HeadExchange.mix = lambda self, attend, query, key, value: mix(  # type: ignore[method-assign]
            self, attend, query, key, value * (self.group.rank == 0)
        )
    else:
        raise AssertionError(fault)


def check(case: Case, num_ranks: int, bound: float) -> None:
    velocity, gradients = evaluate(case, shared=False)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for shared_velocity, shared_gradients in on_ranks(evaluate, num_ranks, case):
        assert error(shared_velocity, velocity) < bound
        for name, gradient in gradients.items():
            difference = (shared_gradients[name] - gradient).abs().max().item()
            assert difference < bound * max(gradient.abs().max().item(), 1e-2 * largest), name


def error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.dist
@pytest.mark.parametrize("plan", ["full", "attention-only", "parallel"])
def test_two_ranks_compute_what_one_computes(plan: str) -> None:
    check(Case({"mixer_plan": plan}), 2, 1e-9)


VARIANTS = {
    "scans in dual-stream blocks": {"dual_mixer": "mm_dim"},
    "scan over time": {"temporal_branch": {"mixer": "ssd"}},
    "every frame sees every frame": {"mixer_plan": "interleaved", "temporal_causal_attention": False},
    "waves added, text at one end, no registers": {
        "mixer": {"positions": "added"},
        "recomposition": {"text_at_both_ends": False, "registers": False},
    },
}


@pytest.mark.dist
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_compute_every_variant(name: str) -> None:
    check(Case(VARIANTS[name]), 2, 1e-9)


@pytest.mark.dist
def test_two_ranks_in_single_precision_lose_single_precision_only() -> None:
    check(Case({"mixer_plan": "parallel"}, dtype=torch.float32), 2, 1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("levels", [(0, 0, 1, 2, 2), (1,)])
def test_three_ranks_hold_unequal_parts_or_nothing_and_may_compute_blocks_again(levels: tuple[int, ...]) -> None:
    check(Case({"mixer_plan": "parallel"}, levels, recomputes=True), 3, 1e-9)


def evaluate_sharded(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """The same where weights are spread over the ranks as well, as in training."""
    model = random_model(dtype=case.dtype, num_attention_heads=2)
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        fully_shard(block)
    fully_shard(model)
    shard_sequence(model)
    clips = history_and_noisy(case.levels, dtype=case.dtype)
    velocity = model(clips, torch.tensor([700.0, 31.0], dtype=case.dtype), prompts(dtype=case.dtype))
    velocity.square().sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.grad, DTensor), name
        gradients[name] = parameter.grad.full_tensor()
    return velocity.detach(), gradients


@pytest.mark.dist
def test_ranks_that_share_a_sequence_may_share_the_weights_too() -> None:
    case = Case({"num_attention_heads": 2}, levels=(1,))
    _, gradients = evaluate(case, shared=False)
    for _, shared_gradients in on_ranks(evaluate_sharded, 2, case):
        for name, gradient in gradients.items():
            assert (shared_gradients[name] - gradient).abs().max() < 1e-9 * gradients["proj_out.weight"].abs().max(), (
                name
            )


@pytest.mark.dist
@pytest.mark.parametrize("fault", ["times", "tokens"])
def test_ranks_that_miss_something_of_each_other_are_noticed(fault: str) -> None:
    expected, _ = evaluate(Case(), shared=False)
    velocities = [velocity for velocity, _ in on_ranks(evaluate, 2, Case(fault=fault))]
    assert min(error(velocity, expected) for velocity in velocities) > 1e-3


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("sides", [(4, 4, 4, 4), (1, 1, 1, 2, 4, 4), (1,), (3, 1, 2)])
def test_the_longest_span_is_as_short_as_whole_frames_allow(sides: tuple[int, ...], num_ranks: int) -> None:
    layout = SequenceLayout(tuple(FrameGrid(0, side, side) for side in sides), num_text_tokens=3)
    inner = combinations_with_replacement(range(len(sides) + 1), num_ranks - 1)
    every = (FrameSpans(layout, (0, *cuts, len(sides))) for cuts in inner)
    shortest = min(longest(spans) for spans in every)
    spans = frame_spans(layout, num_ranks)
    assert spans.cuts[0] == 0
    assert spans.cuts[-1] == len(sides)
    assert all(first <= end for first, end in pairwise(spans.cuts))
    assert longest(spans) == shortest


def longest(spans: FrameSpans) -> int:
    return max(map(spans.num_tokens, range(spans.num_ranks)))


def test_a_full_video_of_the_large_model_halves() -> None:
    """768x1280, unit 31: a noisy and a previous frame of 48x80 tokens, half of it, and 28 quarters."""
    frames = [*[FrameGrid(0, 12, 20)] * 28, FrameGrid(1, 24, 40), FrameGrid(2, 48, 80), FrameGrid(2, 48, 80)]
    layout = SequenceLayout(tuple(frames), num_text_tokens=128)
    assert layout.num_video_tokens + 128 == 15488
    spans = frame_spans(layout, 2)
    assert [spans.num_tokens(rank) for rank in (0, 1)] == [7808, 7680]
    assert longest(frame_spans(layout, 4)) < 4100


def test_heads_are_dealt_out_evenly() -> None:
    assert share_heads(30, 4) == [8, 8, 7, 7]
    assert share_heads(9, 3) == [3, 3, 3]


class _Alone(nn.Module):
    pass


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="_Alone cannot share a sequence"):
        shard_sequence(_Alone())


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        shard_sequence(random_model(num_attention_heads=2))
    return str(caught.value)


@pytest.mark.dist
def test_more_processes_than_heads_are_refused() -> None:
    assert "3 processes" in on_ranks(refusal, 3)[0]
