"""The causal convolution against its sum of taps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m4v.ops.causal_conv.reference import causal_conv
from tests.assertions import assert_relative_close
from tests.ops.recurrences import conv_recurrence


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans())
def test_equals_the_sum_of_taps(
    num_tokens: int, width: int, channels: int, with_bias: bool, with_history: bool
) -> None:
    x, weight = _normal(2, num_tokens, channels), _normal(channels, width)
    bias = _normal(channels) if with_bias else None
    history = _normal(2, width - 1, channels) if with_history else None
    expected = conv_recurrence(x, weight, bias, history)
    assert_relative_close(causal_conv(x, weight, bias, history=history), expected, 1e-14)


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_a_sequence_cut_in_two_is_the_whole(at: int) -> None:
    x, weight, bias = _normal(2, 10, 3), _normal(3, 4), _normal(3)
    before = _normal(2, 3, 3)
    whole = causal_conv(x, weight, bias, history=before)
    tail = torch.cat([before, x[:, :at]], dim=1)[:, -3:]
    first = causal_conv(x[:, :at], weight, bias, history=before)
    second = causal_conv(x[:, at:], weight, bias, history=tail)
    assert torch.equal(torch.cat([first, second], dim=1), whole)


def test_later_rows_never_reach_earlier_outputs() -> None:
    x, weight = _normal(1, 8, 2), _normal(2, 4)
    changed = x.clone()
    changed[:, 5:] += 1
    assert torch.equal(causal_conv(x, weight)[:, :5], causal_conv(changed, weight)[:, :5])
    assert not torch.equal(causal_conv(x, weight)[:, 5], causal_conv(changed, weight)[:, 5])


def test_gradients() -> None:
    leaves = [_normal(2, 5, 3), _normal(3, 4), _normal(3), _normal(2, 3, 3)]
    assert torch.autograd.gradcheck(
        lambda x, weight, bias, history: causal_conv(x, weight, bias, history=history),
        [leaf.requires_grad_() for leaf in leaves],
    )


def test_half_precision_keeps_its_dtype() -> None:
    x, weight, bias = _normal(1, 50, 4), _normal(4, 4), _normal(4)
    half = causal_conv(x.bfloat16(), weight.float(), bias.float())
    assert half.dtype == torch.bfloat16
    assert_relative_close(half, conv_recurrence(x, weight, bias), 1e-2)
