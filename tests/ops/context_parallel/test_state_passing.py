"""The scan of ranks that hold a span each against the scan of the whole sequence."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, MixerConfig, RecompositionConfig
from m4v.models.denoiser.frame_spans import frame_spans
from m4v.models.denoiser.recomposition.scan_order import ScanOrder, scan_orders
from m4v.models.denoiser.sharded_context import scan_part, scan_spans
from m4v.ops.context_parallel import exchange, state_passing
from m4v.ops.context_parallel.exchange import RankGroup
from m4v.ops.context_parallel.state_passing import ScanSpan, ScanSpans
from m4v.ops.rope import RotaryTable
from m4v.ops.scan_section.dispatch import scan_section
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights
from tests.ranks import on_ranks

pytestmark = pytest.mark.dist

HEADS, WIDTH, TEXT, KINDS = 2, 4, 5, 3


@dataclass(frozen=True)
class Case:
    """A sequence to scan: sides of its frames, and what the mixer is like."""

    frames: tuple[tuple[int, int], ...] = ((2, 2), (1, 3), (4, 2))
    both_ends: bool = True
    registers: bool = True
    taps: int = 4
    discretisation: str = "euler"
    text_lengths: tuple[int, ...] = (3, 5, 0)
    dtype: torch.dtype = torch.float64

    @property
    def config(self) -> DenoiserConfig:
        return DenoiserConfig(
            recomposition=RecompositionConfig(registers=self.registers, text_at_both_ends=self.both_ends),
            mixer=MixerConfig(conv_width=self.taps),
        )

    @property
    def layout(self) -> SequenceLayout:
        grids = (FrameGrid(number % KINDS, *sides) for number, sides in enumerate(self.frames))
        return SequenceLayout(tuple(grids), TEXT)

    def order(self) -> ScanOrder:
        angles = normal(TEXT + self.layout.num_video_tokens, WIDTH // 2, seed=5)
        mask = torch.arange(TEXT) < torch.tensor(self.text_lengths)[:, None]
        table = RotaryTable(angles.cos(), angles.sin())
        return scan_orders("e", self.layout, self.config.recomposition, mask, table, num_register_kinds=KINDS)["e"]

    def inputs(self) -> dict[str, Tensor]:
        batch, tokens = len(self.text_lengths), TEXT + self.layout.num_video_tokens
        kinds = KINDS if self.registers else 0
        values = {
            "rows": normal(batch, tokens, 4 * HEADS * WIDTH, seed=1),
            "register_rows": normal(kinds, 4 * HEADS * WIDTH, seed=2),
            "dt": normal(batch, tokens, HEADS, seed=3) - 1,
            "register_dt": normal(kinds, HEADS, seed=4),
            "A_log": normal(HEADS, seed=6) * 0.3,
            "D": normal(HEADS, seed=7),
            "dt_bias": normal(HEADS, seed=8),
            "norm_weight": normal(HEADS, WIDTH, seed=9),
            "norm_b": normal(WIDTH, seed=10),
            "norm_c": normal(WIDTH, seed=11),
        }
        if self.taps:
            values["conv_weight"] = normal(3 * HEADS * WIDTH, self.taps, seed=12)
            values["conv_bias"] = normal(3 * HEADS * WIDTH, seed=13)
        return {name: value.to(self.dtype).requires_grad_() for name, value in values.items()}

    def options(self) -> ScanOptions:
        return ScanOptions(discretisation=self.discretisation, chunk_size=3)  # type: ignore[arg-type]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(inputs: dict[str, Tensor]) -> ScanWeights:
    names: dict[str, Any] = {"conv_weight": None, "conv_bias": None}
    return ScanWeights(**names | {name: inputs[name] for name in ScanWeights._fields if name in inputs})


def loss_of(mixed: Tensor, rows: slice) -> Tensor:
    """Different for every output."""
    return (mixed * normal(3, 1000, HEADS * WIDTH, seed=20)[: len(mixed), rows].to(mixed.dtype)).sum()


def whole(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = case.inputs()
    rows = [inputs[name] for name in ("rows", "register_rows", "dt", "register_dt")]
    mixed = scan_section(*rows, weights_of(inputs), case.order().section, case.options()).mixed
    loss_of(mixed, slice(mixed.shape[1])).backward()
    return mixed.detach(), {name: value.grad for name, value in inputs.items() if value.grad is not None}


def one_span(case: Case, fault: str | None) -> tuple[Tensor, dict[str, Tensor]]:
    """This rank's outputs, and its share of the gradients."""
    group = RankGroup()
    if fault is not None:
        break_something(fault)
    spans = frame_spans(case.layout, group.size)
    order = scan_part(case.order(), spans, scan_spans(spans, case.config), group)
    inputs = case.inputs()
    start = sum(spans.num_tokens(rank) for rank in range(group.rank))
    here = slice(start, start + spans.num_tokens(group.rank))
    rows, dt = inputs["rows"][:, here], inputs["dt"][:, here]
    mixed = order.mix(
        scan_section, rows, inputs["register_rows"], dt, inputs["register_dt"], weights_of(inputs), case.options()
    )
    loss_of(mixed, here).backward()
    missing = [name for name, value in inputs.items() if value.grad is None]
    assert not missing, missing
    return mixed.detach(), {name: value.grad for name, value in inputs.items() if value.grad is not None}


def break_something(fault: str) -> None:
    """One rank forgets what another told it; runs in a process of its own."""
    if fault == "halo":
        fetch_rows = ScanSpan._fetch_rows

        def without_halo(self: ScanSpan, *arguments: Any) -> Any:
            before, text = fetch_rows(self, *arguments)
            return before * 0, text

        ScanSpan._fetch_rows = without_halo  # type: ignore[method-assign]
    elif fault == "state":
        fetch_state = ScanSpan._fetch_state

        def without_state(self: ScanSpan, *arguments: Any) -> Any:
            state, dt = fetch_state(self, *arguments)
            return state * 0, dt

        ScanSpan._fetch_state = without_state  # type: ignore[method-assign]
    elif fault == "text":
        ScanSpan._return_text = lambda self, mixed, num_rows: mixed[:, :num_rows]  # type: ignore[method-assign]
    elif fault == "step":
        state_passing._NO_STEP = 0.0
    elif fault == "gradient of the state":
        fetch_whole = ScanSpan._fetch_state

        def detached(self: ScanSpan, *arguments: Any) -> Any:
            state, dt = fetch_whole(self, *arguments)
            return state.detach() + state.sum() * 0, dt

        ScanSpan._fetch_state = detached  # type: ignore[method-assign]
    else:
        raise AssertionError(fault)


def errors(case: Case, num_ranks: int, fault: str | None = None) -> tuple[float, float]:
    """Largest relative error of outputs, and of the gradient of any input."""
    mixed, gradients = whole(case)
    parts = on_ranks(one_span, num_ranks, case, fault)
    error = relative(torch.cat([part for part, _ in parts], dim=1), mixed)
    sums = {name: sum(part[name] for _, part in parts) for name in gradients}
    return error, max(relative(sums[name], gradient) for name, gradient in gradients.items() if gradient.numel())


def relative(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


CASES = {
    "paper": Case(),
    "zero-order hold": Case(discretisation="zoh"),
    "text at one end": Case(both_ends=False),
    "no registers, no convolution": Case(registers=False, taps=0),
    "no text on some": Case(text_lengths=(0, 0)),
    "one frame": Case(frames=((2, 3),)),
}


@pytest.mark.parametrize("name", CASES)
def test_two_spans_scan_as_one(name: str) -> None:
    assert max(errors(CASES[name], 2)) < 1e-10


@pytest.mark.parametrize(
    ("case", "num_ranks"),
    [
        # Spans shorter than what the convolution looks back on: rows come from several ranks.
        (Case(frames=((1, 1),) * 5, registers=False), 4),
        (Case(frames=((1, 1), (1, 1), (2, 2)), registers=True, taps=6), 3),
        # More ranks than frames: some have nothing to scan, and one only the second text copy.
        (Case(frames=((2, 2),)), 4),
        (Case(frames=((2, 2),), both_ends=False), 3),
    ],
)
def test_spans_may_be_short_or_empty(case: Case, num_ranks: int) -> None:
    assert max(errors(case, num_ranks)) < 1e-10


def test_single_precision_loses_single_precision_only() -> None:
    assert max(errors(Case(dtype=torch.float32), 2)) < 1e-5


@pytest.mark.parametrize("fault", ["halo", "state", "text", "step"])
def test_nothing_that_ranks_tell_each_other_may_be_lost(fault: str) -> None:
    error, gradient_error = errors(Case(), 2, fault)
    assert error > 1e-3
    assert gradient_error > 1e-3


def test_gradients_pass_through_the_state() -> None:
    error, gradient_error = errors(Case(), 2, "gradient of the state")
    assert error < 1e-10
    assert gradient_error > 1e-3


def sent(case: Case) -> int:
    """Numbers that this rank sends to others in one scan."""
    count = 0
    all_to_all = exchange._all_to_all

    def counting(flat: Tensor, send_sizes: list[int], *arguments: Any) -> Tensor:
        nonlocal count
        count += sum(send_sizes) - send_sizes[RankGroup().rank]
        return all_to_all(flat, send_sizes, *arguments)

    exchange._all_to_all = counting
    with torch.no_grad():
        group = RankGroup()
        spans = frame_spans(case.layout, group.size)
        order = scan_part(case.order(), spans, scan_spans(spans, case.config), group)
        batch, num_tokens = len(case.text_lengths), spans.num_tokens(group.rank)
        rows, dt = torch.zeros(batch, num_tokens, 4 * HEADS * WIDTH), torch.zeros(batch, num_tokens, HEADS)
        inputs = {name: value.float() for name, value in case.inputs().items()}
        registers = (inputs["register_rows"], inputs["register_dt"])
        order.mix(scan_section, rows, registers[0], dt, registers[1], weights_of(inputs), case.options())
    return count


def test_what_ranks_tell_each_other_does_not_grow_with_the_video() -> None:
    one_sample = (5,)
    short, long = (on_ranks(sent, 2, Case(frames=((4, 4),) * number, text_lengths=one_sample)) for number in (2, 6))
    state, steps, halo = HEADS * (WIDTH * WIDTH + 1), TEXT * HEADS, 3 * 3 * HEADS * WIDTH
    assert short == long == [state + steps + halo + TEXT * 4 * HEADS * WIDTH, TEXT * HEADS * WIDTH]


@pytest.mark.parametrize("lengths", [(5, 4, 3), (9, 1, 1), (2, 0, 0), (1, 1, 1), (0, 3, 0)])
def test_every_active_span_gets_as_many_rows_before_it_as_there_are(lengths: tuple[int, ...]) -> None:
    spans = ScanSpans(lengths, num_copied=2, lookback=3)
    owners = [rank for rank, length in enumerate(lengths) for _ in range(length)]
    for rank in range(3):
        start = sum(lengths[:rank])
        seen = owners[max(start - 3, 0) : start] if lengths[rank] or rank == 2 else []
        assert spans.halo(rank) == tuple(seen.count(other) for other in range(3))
