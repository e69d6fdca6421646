"""Attention against softmax written out."""

import math

import pytest
import torch
from torch import Tensor

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


@pytest.mark.parametrize("scale", [None, 0.3])
def test_equals_softmax_written_out(scale: float | None) -> None:
    query, key, value = _normal(2, 5, 2, 4), _normal(2, 6, 2, 4), _normal(2, 6, 2, 4)
    allowed = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    allowed[..., 0] = True
    expected = _slow(query, key, value, allowed, scale or 0.5)
    assert_relative_close(attention(query, key, value, allowed[:, None], scale), expected, 1e-12)
    everything = torch.ones_like(allowed)
    assert_relative_close(
        attention(query, key, value, scale=scale), _slow(query, key, value, everything, scale or 0.5), 1e-12
    )
    shared = allowed[:1].expand(2, -1, -1)
    assert_relative_close(
        attention(query, key, value, allowed[0], scale), _slow(query, key, value, shared, scale or 0.5), 1e-12
    )
