"""Re-composition plans and the operation that applies them, over random layouts, against Fig. 2c built with loops."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.positions import layout_rotary
from m4v.models.denoiser.recomposition.plan import BoundPlan, recomposition_plan
from m4v.ops.recompose.reference import invert, recompose
from m4v.ops.rope import RotaryTable
from tests.models.denoiser.builders import normal
from tests.models.denoiser.slow_recomposition import Row, invert_slowly, recompose_slowly, scan_rows

NUM_LEVELS = 3
WIDTH = 2


@dataclass(frozen=True)
class Case:
    """A layout, a prompt length per sample, and the choices of re-composition."""

    layout: SequenceLayout
    text_lengths: tuple[int, ...]
    path: str
    config: RecompositionConfig

    def bound(self) -> BoundPlan:
        """The library's answer."""
        mask = torch.arange(self.layout.num_text_tokens) < torch.tensor(self.text_lengths)[:, None]
        return recomposition_plan(self.layout, self.path, self.config, torch.device("cpu"), 3).bind(mask)

    def slow(self) -> tuple[list[list[Row]], int]:
        """The loops' answer."""
        config = self.config
        built = [
            scan_rows(self.layout, self.path, length, config.text_at_both_ends, config.registers, config.continuous)
            for length in self.text_lengths
        ]
        return [sequence for sequence, _ in built], built[0][1]

    @property
    def num_tokens(self) -> int:
        return self.layout.num_text_tokens + self.layout.num_video_tokens

    def tokens(self, seed: int = 0) -> Tensor:
        return normal(len(self.text_lengths), self.num_tokens, WIDTH, seed=seed)

    def registers(self) -> Tensor:
        return normal(NUM_LEVELS if self.config.registers else 0, WIDTH, seed=7)


@st.composite
def cases(draw: st.DrawFn, largest_side: int = 4) -> Case:
    grids = st.builds(
        FrameGrid,
        level=st.integers(0, NUM_LEVELS - 1),
        height=st.integers(1, largest_side),
        width=st.integers(1, largest_side),
    )
    frames = draw(st.lists(grids, min_size=1, max_size=4))
    num_text = draw(st.integers(0, 5))
    return Case(
        SequenceLayout(tuple(frames), num_text, draw(st.integers(1, len(frames)))),
        tuple(draw(st.lists(st.integers(0, num_text), min_size=1, max_size=3))),
        draw(st.sampled_from("abcdefgh")),
        RecompositionConfig(
            text_at_both_ends=draw(st.booleans()), registers=draw(st.booleans()), continuous=draw(st.booleans())
        ),
    )


@given(cases())
def test_the_sequence_is_that_of_the_figure(case: Case) -> None:
    bound, (sequences, num_prefix) = case.bound(), case.slow()
    assert bound.plan.length == len(sequences[0])
    assert bound.plan.num_prefix == num_prefix
    full, _ = scan_rows(
        case.layout,
        case.path,
        case.layout.num_text_tokens,
        case.config.text_at_both_ends,
        case.config.registers,
        case.config.continuous,
    )
    first_row = {"text": 0, "video": case.layout.num_text_tokens, "register": case.num_tokens}
    assert bound.plan.index.tolist() == [first_row[row.kind] + row.number for row in full]
    expected_registers = [(at, row.number) for at, row in enumerate(sequences[0]) if row.kind == "register"]
    order = bound.order
    assert (
        list(zip(order.register_positions.tolist(), order.register_levels.tolist(), strict=True)) == expected_registers
    )
    for sample, sequence in enumerate(sequences):
        assert bound.is_real[sample].tolist() == [row.is_real for row in sequence]
        offset = {"text": 0, "video": case.layout.num_text_tokens}
        expected = [0 if row.kind == "register" else offset[row.kind] + row.number for row in sequence]
        assert order.index[sample].tolist() == expected
        kinds = [row.kind for row in sequence]
        for token, position in enumerate(order.positions[sample].tolist()):
            assert kinds[position] != "register"
            assert expected[position] == token
        for token, position in enumerate(order.text_copy_positions[sample].tolist()):
            assert expected[position] == token
            assert position > max(order.positions[sample].tolist()[case.layout.num_text_tokens :])


@given(cases())
def test_padding_is_outermost_on_both_sides(case: Case) -> None:
    for sample in case.bound().is_real.tolist():
        inside = sample[sample.index(True) : len(sample) - sample[::-1].index(True)]
        assert all(inside)


@given(cases())
def test_values_equal_reading_row_by_row(case: Case) -> None:
    order, (sequences, _) = case.bound().order, case.slow()
    tokens, registers = case.tokens(), case.registers()
    scanned = recompose(tokens, registers, order)
    assert torch.equal(scanned, recompose_slowly(tokens, registers, sequences, case.layout.num_text_tokens))
    answers = normal(*scanned.shape, seed=3)
    expected = invert_slowly(answers, sequences, case.layout.num_text_tokens, case.num_tokens)
    assert torch.equal(invert(answers, order), expected)


@given(cases())
def test_invert_after_recompose_is_the_identity(case: Case) -> None:
    tokens, order, num_text = case.tokens(), case.bound().order, case.layout.num_text_tokens
    back = invert(recompose(tokens, case.registers(), order), order)
    assert torch.equal(back[:, num_text:], tokens[:, num_text:])
    copies = 2 if case.config.text_at_both_ends else 1
    assert torch.equal(back[:, :num_text], copies * tokens[:, :num_text])


@given(cases())
def test_backward_is_the_transpose_and_equals_autograd_of_the_loops(case: Case) -> None:
    order, (sequences, _), num_text = case.bound().order, case.slow(), case.layout.num_text_tokens
    tokens, registers = case.tokens().requires_grad_(), case.registers().requires_grad_()
    scanned = recompose(tokens, registers, order)
    weight = normal(*scanned.shape, seed=3)
    grads = torch.autograd.grad(scanned, (tokens, registers), weight)
    slow = recompose_slowly(tokens, registers, sequences, num_text)
    expected = torch.autograd.grad(slow, (tokens, registers), weight, allow_unused=True)
    torch.testing.assert_close(grads[0], expected[0], rtol=1e-13, atol=1e-13)
    if case.config.registers:
        torch.testing.assert_close(grads[1], expected[1], rtol=1e-13, atol=1e-13)
    inner = (scanned * weight).sum()
    torch.testing.assert_close((tokens * grads[0]).sum() + (registers * grads[1]).sum(), inner, rtol=1e-11, atol=1e-11)

    answers = normal(*scanned.shape, seed=4).requires_grad_()
    token_weight = case.tokens(seed=5)
    (grad,) = torch.autograd.grad(invert(answers, order), answers, token_weight)
    slow_inverse = invert_slowly(answers, sequences, num_text, case.num_tokens)
    (expected_grad,) = torch.autograd.grad(slow_inverse, answers, token_weight)
    assert torch.equal(grad, expected_grad)


@given(cases(largest_side=2))
def test_gradcheck(case: Case) -> None:
    order = case.bound().order
    tokens, registers = case.tokens().requires_grad_(), case.registers().requires_grad_(case.config.registers)
    assert torch.autograd.gradcheck(lambda *rows: recompose(*rows, order), (tokens, registers), fast_mode=True)
    scanned = recompose(tokens, registers, order).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: invert(rows, order), (scanned,), fast_mode=True)


@given(cases())
def test_rotations_go_with_their_tokens_and_registers_are_not_turned(case: Case) -> None:
    angles = normal(case.num_tokens, 3).float()
    angles[: case.layout.num_text_tokens] = 0  # text sits at the origin, wherever it stands
    scanned = case.bound().rotary(RotaryTable(angles.cos(), angles.sin()))
    for sequence in case.slow()[0]:
        for position, row in enumerate(sequence):
            angle = torch.zeros(3) if row.kind != "video" else angles[case.layout.num_text_tokens + row.number]
            assert torch.equal(scanned.cos[position], angle.cos())
            assert torch.equal(scanned.sin[position], angle.sin())


def test_half_precision_gradients_of_registers_are_summed_in_single() -> None:
    frames = tuple(FrameGrid(0, 1, 1) for _ in range(600))
    case = Case(SequenceLayout(frames, 0), (0,), "a", RecompositionConfig())
    registers = torch.zeros(NUM_LEVELS, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    recompose(case.tokens().bfloat16(), registers, case.bound().order).sum().backward()
    assert registers.grad is not None
    assert registers.grad[0].tolist() == [600.0] * WIDTH  # counting in bf16 stops at 256


def test_arguments_are_not_edited_and_plans_are_shared() -> None:
    case = Case(SequenceLayout((FrameGrid(0, 2, 2),), 3), (1, 3), "c", RecompositionConfig())
    tokens, registers = case.tokens(), case.registers()
    scanned = recompose(tokens, registers, case.bound().order)
    kept = scanned.clone()
    invert(scanned, case.bound().order)
    assert torch.equal(scanned, kept)
    assert torch.equal(tokens, case.tokens())
    assert torch.equal(registers, case.registers())
    assert case.bound().plan is case.bound().plan


def test_a_frame_without_a_register_of_its_kind_is_refused() -> None:
    layout = SequenceLayout((FrameGrid(0, 1, 2), FrameGrid(2, 2, 3)), 4)
    device = torch.device("cpu")
    recomposition_plan(layout, "a", RecompositionConfig(), device, 3)
    recomposition_plan(layout, "a", RecompositionConfig(registers=False), device, 0)
    with pytest.raises(UserError, match="register_levels of the scan order runs from 0 to 2; expected 0 to 1"):
        recomposition_plan(layout, "a", RecompositionConfig(), device, 2)


def test_what_prediction_makes_serves_training() -> None:
    layout = SequenceLayout((FrameGrid(0, 7, 11),), 3)  # of this test alone: plans are kept
    with torch.inference_mode():
        plan = recomposition_plan(layout, "a", RecompositionConfig(), torch.device("cpu"), 3)
        rotary = layout_rotary(layout, (2, 2, 4), torch.device("cpu"))
    assert not any(kept.is_inference() for kept in (plan.index, plan.register_levels, *rotary))
