"""Clock and checks: what fails is reported, what is wrong is not timed."""

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from m4v.analysis.bench.attention_partners import attention_inputs, check_core, check_frame_causal, prefix_core, sdpa
from m4v.analysis.bench.clock import Clock, Contender
from m4v.analysis.bench.correctness_part import kernel_errors
from m4v.analysis.bench.machine import machine_facts, measure_rates
from m4v.analysis.bench.networks import compiled_or_eager
from m4v.analysis.bench.scan_case import (
    SectionInputs,
    check_against_reference,
    layout_of_length,
    relative_error,
    require_correct,
    section_inputs,
)
from m4v.analysis.bench.scan_partners import Partner, _torch_conv, _torch_gate, partners
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.ops.ssd.reference import ssd

CPU = torch.device("cpu")
F32 = torch.float32


def _inputs(norm_and_rope: bool = False) -> SectionInputs:
    return section_inputs(layout_of_length(48), 3, 32, CPU, F32, norm_and_rope=norm_and_rope)


def test_contenders_take_turns_over_all_inputs() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in ("a0", "a1", "b")]
    clock = Clock(CPU, rounds=3, seconds=1e-9)
    result = clock.compare([Contender(name="a", calls=calls[:2]), Contender(name="b", calls=calls[2:])])
    assert set(result.ms) == {"a", "b"}
    assert {"a0", "a1", "b"} <= set(order)
    assert all(value >= 0 for value in result.ms.values())


def test_slow_calls_are_measured_once_after_their_warm_up() -> None:
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        time.sleep(0.02)

    result = Clock(CPU, rounds=9, seconds=0.01).compare([Contender(name="slow", calls=[slow])])
    assert result.ms["slow"] == pytest.approx(20, abs=15)
    assert len(calls) == 2


def test_a_contender_that_fails_is_reported_and_the_rest_goes_on() -> None:
    def fail() -> None:
        raise RuntimeError("no such kernel\nsecond line")

    works = Contender(name="works", calls=[lambda: sum(range(1000))])
    result = Clock(CPU, 2, 0.01).compare([Contender(name="fails", calls=[fail]), works])
    assert result.problems == {"fails": "RuntimeError: no such kernel"}
    assert list(result.ms) == ["works"]


def test_peak_memory_counts_what_lives_at_once() -> None:
    def call() -> Tensor:
        first = torch.empty(1000)
        return torch.cat([first, first])

    assert Clock(CPU).peak_bytes(Contender(name="call", calls=[call])) == 12_000


def test_rates_and_facts_are_measured() -> None:
    rates = measure_rates(Clock(CPU, 1, 0.01), F32, is_tiny=True)
    assert rates.bytes_per_second > 0
    assert rates.flops_per_second > 0
    facts = machine_facts(CPU)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["commit"]


def test_heads_of_a_section_are_those_of_the_whole() -> None:
    inputs = _inputs(norm_and_rope=True)
    whole = inputs.mix_by_reference().unflatten(-1, (3, 32))
    part = inputs.heads([2, 0]).mix_by_reference().unflatten(-1, (2, 32))
    assert relative_error(part, whole[:, :, [2, 0]]) < 1e-6


def test_a_right_section_passes_and_a_wrong_one_is_refused() -> None:
    inputs = _inputs()
    require_correct("ours", check_against_reference(inputs, with_gradients=True), F32)

    def almost(rows: Tensor) -> Tensor:
        mixed = replace(inputs, rows=rows).mix_by_reference()
        return torch.cat([mixed[:, :-1], 1.01 * mixed[:, -1:]], 1)

    errors = check_against_reference(inputs, with_gradients=True, mix=almost)
    with pytest.raises(ArithmeticError, match="not timed: forward of theirs"):
        require_correct("theirs", errors, F32)
    with pytest.raises(ArithmeticError, match="gradient"):
        require_correct("theirs", {"gradient": float("nan")}, F32)


def test_errors_of_the_kernels_are_small_in_float64_terms() -> None:
    errors = kernel_errors(_inputs(norm_and_rope=True))
    assert set(errors) == {"outputs", "worst_gradient"}
    assert max(errors.values()) < 1e-4


def test_wrong_attention_is_seen() -> None:
    inputs = attention_inputs(40, 2, 16, CPU, F32, with_projections=False)
    assert check_core(sdpa, inputs) < 1e-5
    assert check_core(lambda query, key, value: sdpa(1.1 * query, key, value), inputs) > 1e-3


def test_frame_causal_attention_is_checked_by_its_own_rule() -> None:
    layout = SequenceLayout((FrameGrid(0, 2, 3), FrameGrid(0, 2, 3), FrameGrid(1, 4, 6)), 4)
    inputs = attention_inputs(layout.num_text_tokens + layout.num_video_tokens, 2, 16, CPU, F32, with_projections=False)
    assert check_frame_causal(prefix_core(layout, CPU), inputs, layout) < 1e-5
    assert check_frame_causal(sdpa, inputs, layout) > 1e-2


def _reference_scan(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, inputs: SectionInputs) -> Tensor:
    step = torch.nn.functional.softplus(dt + inputs.weights.dt_bias)
    return ssd(x, step, -torch.exp(inputs.weights.A_log), B, C, D=inputs.weights.D).y


def test_partners_do_the_work_of_our_section() -> None:
    """All but the foreign scan itself: gathers, registers, convolution, gate, both text copies, and gradients."""
    inputs = _inputs()
    partner = Partner("theirs", _reference_scan, _torch_conv, _torch_gate)
    prepared = partner.prepare(inputs)
    assert relative_error(prepared.mix(), inputs.mix_by_reference()) < 1e-5

    def mix(rows: Tensor) -> Tensor:
        return prepared.mix_rows(torch.cat([rows, inputs.register_rows[None]], 1))

    require_correct("theirs", check_against_reference(inputs, with_gradients=True, mix=mix), F32)


def test_partners_that_are_not_there_are_named() -> None:
    found, missing = partners(None)
    named = " ".join([partner.name for partner in found] + missing)
    assert "mamba" in named
    assert "fla" in named


class _Uncompilable(torch.nn.Linear):
    def compile_repeated_blocks(self, **_: object) -> None:
        self._compiled_call_impl = self._refuse

    def _refuse(self, *_: object) -> Tensor:
        raise RuntimeError("no compiler here")


def test_a_network_that_cannot_be_compiled_stays_as_it_was() -> None:
    network, tokens = _Uncompilable(3, 3), torch.ones(2, 3)
    expected = network(tokens)
    assert compiled_or_eager(network, lambda: network(tokens)) == "RuntimeError: no compiler here"
    assert torch.equal(network(tokens), expected)
