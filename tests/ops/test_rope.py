"""Rotary embedding against complex rotation, and what makes it useful: only differences of position count."""

import cmath

import torch
from torch import Tensor

from m4v.ops.rope import _turn_complex, _turn_real, apply_rotary, rotary_table
from tests.assertions import assert_relative_close

AXES = (4, 6, 2)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_each_adjacent_pair_is_a_complex_number_turned_by_its_axis() -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.5, 0.5], [17.0, 9.5, 2.0]], dtype=torch.float64)
    x = _normal(2, 3, 2, sum(AXES))
    turned = apply_rotary(x, rotary_table(positions, AXES, theta=100.0))
    for token in range(3):
        channel = 0
        for axis, dim in enumerate(AXES):
            for j in range(dim // 2):
                angle = positions[token, axis].item() * 100.0 ** (-2 * j / dim)
                before = torch.complex(x[:, token, :, channel], x[:, token, :, channel + 1])
                after = torch.complex(turned[:, token, :, channel], turned[:, token, :, channel + 1])
                assert (after - before * cmath.exp(1j * angle)).abs().max() < 1e-6
                channel += 2
    assert torch.equal(turned[:, 0], x[:, 0])


def test_scores_depend_on_differences_of_position_only() -> None:
    query, key = _normal(1, 5, 1, 12), _normal(1, 5, 1, 12)
    positions = _normal(5, 3) * 10
    shift = torch.tensor([[5.0, -2.5, 11.0]], dtype=torch.float64)

    def scores(at: Tensor) -> Tensor:
        table = rotary_table(at, AXES)
        return torch.einsum("bngp,bmgp->nm", apply_rotary(query, table), apply_rotary(key, table))

    assert_relative_close(scores(positions + shift), scores(positions), 1e-5)


def test_far_positions_keep_their_digits() -> None:
    table = rotary_table(torch.tensor([[123456.5]], dtype=torch.float64), (2,))
    assert abs(complex(table.cos.item(), table.sin.item()) - cmath.exp(123456.5j)) < 1e-6


def test_half_precision_is_turned_in_single() -> None:
    x = _normal(1, 3, 2, 12).bfloat16()
    table = rotary_table(_normal(3, 3), AXES)
    assert torch.equal(apply_rotary(x, table), apply_rotary(x.float(), table).bfloat16())


def test_rows_follow_a_selection() -> None:
    table = rotary_table(_normal(4, 3), AXES)
    index = torch.tensor([2, 0, 2])
    x = _normal(1, 4, 1, 12)
    selected = apply_rotary(x[:, index], table.select(index))
    assert_relative_close(selected, apply_rotary(x, table)[:, index], 1e-14)


def test_rows_of_any_stride_can_be_turned() -> None:
    """Cut out of a projection of odd width, as with an odd number of heads."""
    x = _normal(1, 3, 25)[..., 1:].unflatten(-1, (2, 12))
    table = rotary_table(_normal(3, 3), AXES)
    assert torch.equal(apply_rotary(x, table), apply_rotary(x.contiguous(), table))


def test_gradients() -> None:
    table = rotary_table(_normal(3, 3), AXES)
    x = _normal(1, 3, 2, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: apply_rotary(rows, table), (x,))


def test_real_and_complex_arithmetic_agree() -> None:
    pairs = _normal(2, 7, 3, 12).float().unflatten(-1, (-1, 2))
    table = rotary_table(10 * _normal(7, 3), AXES)
    arguments = (pairs, table.cos[:, None], table.sin[:, None])
    real, turned = _turn_real(*arguments), _turn_complex(*arguments)
    assert (real - turned).abs().max() <= 1e-6
    assert torch.equal(real.bfloat16(), turned.bfloat16())
