"""RMSNorm and the gated norm against their formulas, and the order of roundings in half precision."""

import torch
from torch import Tensor

from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.rms_norm import rms_norm
from tests.assertions import assert_relative_close
from tests.ops.recurrences import gated_norm_formula


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x, weight = _normal(2, 3, 4, 8), _normal(8)
    expected = x / (x.pow(2).sum(-1, keepdim=True) / 8 + 1e-6).sqrt()
    assert_relative_close(rms_norm(x, None, 1e-6), expected, 1e-14)
    assert_relative_close(rms_norm(x, weight, 1e-6), expected * weight, 1e-14)
    assert_relative_close(rms_norm(x.float(), weight.float(), 1e-6), expected * weight, 1e-6)


def test_a_half_precision_weight_multiplies_after_the_cast() -> None:
    x, weight = _normal(5, 16).bfloat16(), _normal(16)
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    half = rms_norm(x, weight.bfloat16(), 1e-6)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, wide.bfloat16() * weight.bfloat16())
    assert torch.equal(rms_norm(x, weight.float(), 1e-6), (wide * weight.float()).bfloat16())


def test_large_half_precision_values_do_not_overflow() -> None:
    x = torch.full((1, 8), 60000.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, None, 1e-6), torch.ones(1, 8, dtype=torch.float16))


def test_gated_norm_gates_then_norms_each_head() -> None:
    y, z, weight = _normal(2, 7, 3, 5), _normal(2, 7, 3, 5) + 1, _normal(3, 5)
    expected = gated_norm_formula(y, z, weight)
    assert_relative_close(gated_rms_norm(y, z, weight), expected, 1e-13)
    assert_relative_close(gated_rms_norm(y.float(), z.float(), weight.float()), expected, 1e-6)
    half = gated_rms_norm(y.bfloat16(), z.bfloat16(), weight.float())
    assert half.dtype == torch.bfloat16
    assert_relative_close(half, expected, 1e-2)
    other_head = y.clone()
    other_head[:, :, 0] *= 9  # norms of one head know nothing of another
    assert torch.equal(gated_rms_norm(other_head, z, weight)[:, :, 1:], gated_rms_norm(y, z, weight)[:, :, 1:])


def test_gradients() -> None:
    leaves = [_normal(1, 2, 2, 3), _normal(1, 2, 2, 3) * 2, _normal(2, 3)]
    assert torch.autograd.gradcheck(gated_rms_norm, [leaf.requires_grad_() for leaf in leaves])
