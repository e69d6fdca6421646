"""Attention against softmax written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import _cur_sdpa_kernel_backends

from m4v.ops.attention import attention
from tests.assertions import assert_relative_close


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _slow(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float) -> Tensor:
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for b in range(query.shape[0]):
        for n in range(query.shape[1]):
            for g in range(query.shape[2]):
                seen = [m for m in range(key.shape[1]) if allowed[b, n, m]]
                weights = [math.exp(scale * float(query[b, n, g] @ key[b, m, g])) for m in seen]
                for m, weight in zip(seen, weights, strict=True):
                    out[b, n, g] += weight / sum(weights) * value[b, m, g]
    return out


@pytest.mark.parametrize("width", [4, 320], ids=["short heads", "long heads"])
@pytest.mark.parametrize("given", [None, 0.05])
def test_equals_softmax_written_out(given: float | None, width: int) -> None:
    query, key, value = _normal(2, 5, 2, width), _normal(2, 6, 2, width), _normal(2, 6, 2, width)
    scale = width**-0.5 if given is None else given
    allowed = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    allowed[..., 0] = True
    expected = _slow(query, key, value, allowed, scale)
    assert_relative_close(attention(query, key, value, allowed[:, None], given), expected, 1e-12)
    everything = torch.ones_like(allowed)
    assert_relative_close(attention(query, key, value, scale=given), _slow(query, key, value, everything, scale), 1e-12)
    shared = allowed[:1].expand(2, -1, -1)
    assert_relative_close(
        attention(query, key, value, allowed[0], given), _slow(query, key, value, shared, scale), 1e-12
    )


def test_long_heads_stay_in_the_range_of_half_precision() -> None:
    query = torch.full((1, 2, 1, 100_000), 5.0, dtype=torch.float16)
    value = torch.randn(1, 2, 1, 100_000, generator=torch.Generator().manual_seed(0)).half()
    mixed = attention(query, query, value)
    assert mixed.isfinite().all()
    assert_relative_close(mixed[:, 0].double(), value.double().mean(1), 1e-3)


def test_the_preferred_order_of_kernels_compiles_whole_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m4v.ops.attention._cudnn_is_faster", lambda query: True)
    query, key, value = _normal(2, 5, 2, 4), _normal(2, 6, 2, 4), _normal(2, 6, 2, 4)
    before = _cur_sdpa_kernel_backends(with_priority=True)
    expected = attention(query, key, value)
    compiled = torch.compile(attention, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(query, key, value), expected)
    assert _cur_sdpa_kernel_backends(with_priority=True) == before
    assert_relative_close(expected, attention(query, key, value, torch.ones(5, 6, dtype=torch.bool)), 1e-12)


@pytest.mark.gpu
def test_layers_whose_gradients_are_laid_out_otherwise_do_not_share_a_plan() -> None:
    # cuDNN's plan of the first layer would read the second one's gradient where it is not.
    def grads(gradient: Tensor) -> tuple[Tensor, ...]:
        inputs = [_normal(1, 2048, 4, 64 + i)[..., :64].to("cuda", torch.bfloat16).requires_grad_() for i in range(3)]
        found = torch.autograd.grad(attention(*inputs), inputs, gradient.to("cuda", torch.bfloat16))
        exact = [each.detach().double().requires_grad_() for each in inputs]
        expected = torch.autograd.grad(attention(*exact), exact, gradient.to("cuda", torch.bfloat16).double())
        for grad, exact_grad in zip(found, expected, strict=True):
            assert_relative_close(grad, exact_grad, 2e-2)
        return found

    wide = _normal(1, 2048, 4 * 64 * 3).to("cuda", torch.bfloat16)
    grads(wide[..., : 4 * 64].unflatten(-1, (4, 64)))
    grads(wide[..., 4 * 64 : 8 * 64].contiguous().unflatten(-1, (4, 64)))
