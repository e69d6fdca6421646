"""The chunked SSD scan against the recurrence it stands for: values, states, masking, packing, gradients, numerics."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m4v.ops.ssd.reference import input_weight, ssd
from tests.assertions import assert_relative_close
from tests.ops.recurrences import ssd_inputs, ssd_recurrence

LENGTHS = [1, 2, 63, 64, 65, 200]


def _cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) for name, value in inputs.items()}


def _rows(inputs: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """The same inputs for a stretch of tokens, without an initial state."""
    cut = {name: inputs[name][:, rows] for name in ("x", "dt", "B", "C")}
    return cut | {"A": inputs["A"], "D": inputs["D"]}


@pytest.mark.parametrize("discretisation", ["euler", "zoh"])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_equals_the_recurrence(num_tokens: int, discretisation: Any) -> None:
    inputs = ssd_inputs(num_tokens)
    y, state = ssd_recurrence(**inputs, discretisation=discretisation)
    exact = ssd(**inputs, discretisation=discretisation)
    assert_relative_close(exact.y, y, 1e-12, "y in fp64")
    assert_relative_close(exact.final_state, state, 1e-12, "state in fp64")
    single = ssd(**_cast(inputs, torch.float32), discretisation=discretisation)
    assert single.y.dtype == single.final_state.dtype == torch.float32
    assert_relative_close(single.y, y, 1e-6, "y in fp32")
    assert_relative_close(single.final_state, state, 1e-6, "state in fp32")


@given(st.integers(1, 70), st.integers(1, 80), st.booleans(), st.booleans(), st.sampled_from(["euler", "zoh"]))
def test_chunk_size_changes_nothing(
    num_tokens: int, chunk_size: int, with_state: bool, with_skip: bool, discretisation: Any
) -> None:
    inputs: dict[str, Any] = ssd_inputs(num_tokens, batch=1, heads=2, head_dim=3, state_dim=2, seed=num_tokens)
    if not with_state:
        inputs["initial_state"] = None
    if not with_skip:
        inputs["D"] = None
    y, state = ssd_recurrence(**inputs, discretisation=discretisation)
    out = ssd(**inputs, chunk_size=chunk_size, discretisation=discretisation)
    assert_relative_close(out.y, y, 1e-12, "y")
    assert_relative_close(out.final_state, state, 1e-12, "state")


@pytest.mark.parametrize("at", [1, 17, 64, 100, 199])
def test_two_halves_joined_by_the_state_are_the_whole(at: int) -> None:
    inputs = ssd_inputs(200)
    whole = ssd(**inputs)
    first = ssd(**_rows(inputs, slice(0, at)), initial_state=inputs["initial_state"])
    second = ssd(**_rows(inputs, slice(at, None)), initial_state=first.final_state)
    assert_relative_close(torch.cat([first.y, second.y], dim=1), whole.y, 1e-12, "y")
    assert_relative_close(second.final_state, whole.final_state, 1e-12, "state")


def test_masked_tokens_leave_the_state_and_all_other_outputs() -> None:
    inputs = ssd_inputs(100)
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(100, generator=generator) > 0.4
    keep[:9], keep[64:70], keep[-5:] = False, False, False  # at both ends and at a chunk edge
    masked = inputs | {"dt": inputs["dt"] * keep[:, None]}
    short = {name: value[:, keep] if name in ("x", "dt", "B", "C") else value for name, value in inputs.items()}
    for discretisation in ("euler", "zoh"):
        out = ssd(**masked, discretisation=discretisation)  # type: ignore[arg-type]
        without = ssd(**short, discretisation=discretisation)  # type: ignore[arg-type]
        assert_relative_close(out.y[:, keep], without.y, 1e-12, "y")
        assert_relative_close(out.final_state, without.final_state, 1e-12, "state")
    all_masked = ssd(**(inputs | {"dt": torch.zeros_like(inputs["dt"])}))
    assert torch.equal(all_masked.final_state, inputs["initial_state"])


PACKINGS = {
    "one sample": [200],
    "mid-chunk": [70, 130],
    "at chunk edges": [64, 64, 72],
    "several in one chunk": [3, 1, 10, 1, 30, 155],
    "single tokens at an edge": [63, 1, 1, 135],
    "a sample of several chunks": [10, 185, 5],
    "each token alone at first": [1, 1, 1, 1, 196],
}


def _apart(inputs: dict[str, Tensor], lengths: list[int], chunk_size: int = 64) -> tuple[Tensor, Tensor]:
    """Each sample run alone; the initial state belongs to the first."""
    outputs, start = [], 0
    state = inputs["initial_state"]
    for number, length in enumerate(lengths):
        cut = _rows(inputs, slice(start, start + length))
        out = ssd(**cut, initial_state=inputs["initial_state"] if number == 0 else None, chunk_size=chunk_size)
        outputs.append(out.y)
        state = out.final_state
        start += length
    return torch.cat(outputs, dim=1), state


def _ids(lengths: list[int], batch: int = 2) -> Tensor:
    numbers = torch.arange(len(lengths)) * 3 - 1  # any numbers will do
    return numbers.repeat_interleave(torch.tensor(lengths)).expand(batch, -1)


@pytest.mark.parametrize("lengths", PACKINGS.values(), ids=PACKINGS)
def test_packed_samples_equal_samples_run_alone(lengths: list[int]) -> None:
    inputs = ssd_inputs(200)
    y, state = _apart(inputs, lengths)
    out = ssd(**inputs, sequence_ids=_ids(lengths))
    assert_relative_close(out.y, y, 1e-12, "y")
    assert_relative_close(out.final_state, state, 1e-12, "state of the last sample")


@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(1, 30))
def test_any_packing_in_any_chunks(lengths: list[int], chunk_size: int) -> None:
    inputs = ssd_inputs(sum(lengths), batch=1, heads=1, head_dim=2, state_dim=2)
    y, state = _apart(inputs, lengths)
    out = ssd(**inputs, sequence_ids=_ids(lengths, batch=1), chunk_size=chunk_size)
    assert_relative_close(out.y, y, 1e-12, "y")
    assert_relative_close(out.final_state, state, 1e-12, "state")


def test_rows_of_a_batch_may_be_packed_differently() -> None:
    inputs = ssd_inputs(100)
    packings = [[40, 60], [7, 64, 29]]
    out = ssd(**inputs, sequence_ids=torch.cat([_ids(lengths, batch=1) for lengths in packings]))
    for row, lengths in enumerate(packings):
        y, _ = _apart(inputs, lengths)
        assert_relative_close(out.y[row], y[row], 1e-12, f"row {row}")


def test_no_gradient_passes_from_one_sample_to_the_next() -> None:
    lengths = [70, 10, 40]
    inputs = ssd_inputs(120)
    leaves = {name: inputs[name].clone().requires_grad_() for name in ("x", "dt", "B", "C", "initial_state")}
    out = ssd(**(inputs | leaves), sequence_ids=_ids(lengths))
    out.y[:, 70:80].square().sum().backward()
    for name in ("x", "dt", "B", "C"):
        grad = leaves[name].grad
        assert grad is not None
        assert grad[:, 70:80].abs().sum() > 0, name
        others = torch.cat([grad[:, :70], grad[:, 80:]], dim=1)
        assert others.abs().max() < 1e-14 * grad.abs().max(), name  # cumulative sums leave rounding behind
    assert leaves["initial_state"].grad is not None
    assert leaves["initial_state"].grad.abs().sum() == 0


@pytest.mark.parametrize("discretisation", ["euler", "zoh"])
@pytest.mark.parametrize("num_tokens", [1, 65, 130])
def test_gradients_equal_those_of_the_recurrence(num_tokens: int, discretisation: Any) -> None:
    inputs = ssd_inputs(num_tokens)
    inputs["dt"][:, num_tokens // 2 :][:, :3] = 0  # masked tokens must not spoil the gradient
    weights = ssd_inputs(num_tokens, seed=1)

    def gradients(function: Any) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        y, state = function(**leaves, discretisation=discretisation)
        loss = (y * weights["x"]).sum() + (state * weights["initial_state"]).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    expected = gradients(ssd_recurrence)
    for name, grad in gradients(ssd).items():
        assert_relative_close(grad, expected[name], 1e-11, name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("discretisation", ["euler", "zoh"])
def test_gradcheck(discretisation: Any, packed: bool) -> None:
    inputs = ssd_inputs(7, batch=1, heads=2, head_dim=2, state_dim=2)
    ids = _ids([2, 4, 1], batch=1) if packed else None

    def function(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        named: dict[str, Any] = dict(zip(inputs, leaves, strict=True))
        return tuple(ssd(**named, sequence_ids=ids, chunk_size=3, discretisation=discretisation))  # type: ignore[return-value]

    assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in inputs.values()])


def test_zero_order_hold_weight_is_the_integral_at_every_scale() -> None:
    dt = torch.cat([torch.zeros(1), torch.logspace(-9, 2, 200)]).double()[:, None]
    A = torch.tensor([-1.0, -7.0], dtype=torch.float64)
    expected = torch.expm1(dt * A) / A
    assert_relative_close(input_weight(dt, A, "zoh"), expected, 1e-9)
    relative = (input_weight(dt, A, "zoh") / expected - 1)[1:].abs().max()
    assert relative < 1e-9
    relative = (input_weight(dt.float(), A.float(), "zoh").double() / expected - 1)[1:].abs().max()
    assert relative < 1e-6
    assert torch.equal(input_weight(dt, A, "euler"), dt)


def test_half_precision_inputs_stay_close_and_carry_a_wide_state() -> None:
    inputs = ssd_inputs(200)
    half = {name: value.to(torch.bfloat16) if name in "xBC" else value.float() for name, value in inputs.items()}
    y, state = ssd_recurrence(**{name: value.double() for name, value in half.items()})
    out = ssd(**half)
    assert out.y.dtype == torch.bfloat16
    assert out.final_state.dtype == torch.float32
    assert_relative_close(out.y, y, 1e-2, "y")
    assert_relative_close(out.final_state, state, 1e-2, "state")


@pytest.mark.parametrize("strength", [3.0, 1e2, 1e4, 1e8, 1e30])
def test_strong_decay_gives_no_nan_forward_or_backward(strength: float) -> None:
    inputs = ssd_inputs(150)
    inputs["dt"] = inputs["dt"] * strength
    inputs["dt"][:, 70:90] *= 1e-6 / strength
    single = {name: value.float().requires_grad_() for name, value in inputs.items()}
    for ids in (None, _ids([70, 80])):
        out = ssd(**single, sequence_ids=ids)
        assert out.y.isfinite().all()
        assert out.final_state.isfinite().all()
        # The inverse weighting keeps the loss itself in range when the input weight dt is huge.
        grads = torch.autograd.grad((out.y / strength).sum(), list(single.values()), allow_unused=True)
        for name, grad in zip(single, grads, strict=True):
            assert grad is None or grad.isfinite().all(), name
    if strength <= 1e4:
        y, _ = ssd_recurrence(**{name: value.detach().double() for name, value in single.items()})
        assert_relative_close(ssd(**single).y, y, 2e-6, "y")


def test_arguments_are_not_edited() -> None:
    inputs = ssd_inputs(70)
    before = {name: value.clone() for name, value in inputs.items()}
    ssd(**inputs, sequence_ids=_ids([20, 50]), discretisation="zoh")
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)
