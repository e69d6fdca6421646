"""The kernels, interpreted in single precision, against loops over times, positions and heads in float64."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.ops.scan_section import dispatch as scan_dispatch
from m4v.ops.time_attention import custom_op, launch, reference
from m4v.ops.time_attention.dispatch import MAX_TIMES, runs_kernels
from m4v.ops.time_attention.interface import HeadNorms
from tests.assertions import assert_relative_close, nan_poisoned_memory

TOLERANCE = 1e-5
EPS = 1e-2  # large enough to count


class Case(NamedTuple):
    """Sizes of one call.

    Attributes:
        times: When each time token is; one sees those not after it.
    """

    times: tuple[int, ...]
    positions: int
    batch: int = 2
    num_heads: int = 2
    head_dim: int = 16
    is_causal: bool = True
    has_norms: bool = True


def _case(count: int, positions: int, **changes: object) -> Case:
    # The last few are one time, as the phases of a noisy frame are.
    return Case(tuple(min(i, max(count - 3, 0)) for i in range(count)), positions)._replace(**changes)


CASES = {
    "two times": _case(2, 5),
    "all see all": _case(5, 3, is_causal=False),
    "no norms, one head": _case(7, 2, has_norms=False, num_heads=1),
    "sixteen": _case(16, 4, num_heads=3),
    "weights of their own": _case(17, 3),
    "a history and phases": _case(46, 3, head_dim=64, batch=1),
    "wide heads": _case(21, 3, head_dim=128, batch=1, num_heads=1, has_norms=False),
    "large tile": _case(100, 2, head_dim=32, batch=1, num_heads=1),
    "one position": _case(33, 1, is_causal=False, batch=1),
    "one time": _case(1, 4),
}


def _tensors(case: Case) -> tuple[tuple[Tensor, ...], Tensor, Tensor, HeadNorms | None]:
    """Queries, keys and values as slices of one projection, wider than they are; gate, mask, norms."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width = case.num_heads * case.head_dim
    rows = normal(case.batch, len(case.times) * case.positions, 3 * width + 16)
    rows[..., :width] *= 3  # weights far from uniform
    parts = rows[..., : 3 * width].split(width, dim=-1)
    query, key, value = (part.unflatten(-1, (case.num_heads, case.head_dim)) for part in parts)
    when = torch.tensor(case.times)
    norms = HeadNorms(normal(case.head_dim), normal(case.head_dim), EPS) if case.has_norms else None
    return (query, key, value), normal(width), when[:, None] >= when[None, :], norms


def _single(norms: HeadNorms | None) -> HeadNorms | None:
    return norms and HeadNorms(norms.query.float(), norms.key.float(), norms.eps)


def _loops(case: Case, query: Tensor, key: Tensor, value: Tensor, gate: Tensor, norms: HeadNorms | None) -> Tensor:
    if norms is not None:
        query = query / (query.square().mean(-1, keepdim=True) + norms.eps).sqrt() * norms.query
        key = key / (key.square().mean(-1, keepdim=True) + norms.eps).sqrt() * norms.key
    scale = 1 / math.sqrt(case.positions * case.head_dim)
    query, key, value = (
        [t[:, f * case.positions : (f + 1) * case.positions] for f in range(len(case.times))]
        for t in (query, key, value)
    )
    mixed = []
    for f, time in enumerate(case.times):
        seen = [m for m, other in enumerate(case.times) if other <= time or not case.is_causal]
        weights = torch.stack([(query[f] * key[m]).sum((1, 3)) * scale for m in seen]).softmax(0)
        mixed.append(sum(weights[i][:, None, :, None] * value[m] for i, m in enumerate(seen)))
    return gate * torch.cat(mixed, dim=1).flatten(2)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_and_definition_equal_the_loops(case: Case) -> None:
    rows, gate, mask, norms = _tensors(case)
    visible = mask if case.is_causal else None
    expected = _loops(case, *rows, gate, norms)
    defined = reference.time_attention(*rows, gate, len(case.times), visible, norms)
    assert_relative_close(defined, expected, 1e-12)
    with nan_poisoned_memory():
        mixed = custom_op.time_attention(
            *_as_slices(rows, torch.float32), gate.float(), len(case.times), visible, _single(norms)
        )
    assert mixed.dtype == torch.float32
    assert mixed.is_contiguous()
    assert_relative_close(mixed, expected, TOLERANCE)


def _as_slices(rows: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same values in another dtype, still parts of one wide row each."""
    joint = torch.cat([part.flatten(2) for part in rows], dim=-1).to(dtype)
    shape = rows[0].shape[2:]
    return tuple(part.unflatten(-1, shape) for part in joint.split(joint.shape[-1] // 3, dim=-1))


def test_several_blocks_of_positions_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten blocks, the last of them short, for both ways to the weights."""
    monkeypatch.setattr(launch, "block_span", lambda *_: 2)
    for count in (3, 20):
        case = _case(count, 19, batch=1)
        rows, gate, mask, norms = _tensors(case)
        singles = _as_slices(rows, torch.float32)
        mixed = custom_op.time_attention(*singles, gate.float(), count, mask, _single(norms))
        assert_relative_close(mixed, _loops(case, *rows, gate, norms), TOLERANCE)


def test_operands_may_lie_in_different_ways() -> None:
    case = _case(6, 4)
    rows, gate, mask, norms = _tensors(case)
    query, key, value = (part.float() for part in rows)
    value = value.transpose(1, 2).contiguous().transpose(1, 2)  # heads outermost
    key = key.transpose(-1, -2).contiguous().transpose(-1, -2)  # channels apart
    mixed = custom_op.time_attention(query, key, value, gate.float(), 6, mask, _single(norms))
    assert_relative_close(mixed, _loops(case, *rows, gate, norms), TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    case = _case(20, 5)
    rows, gate, mask, norms = _tensors(case)
    halves = _as_slices(rows, dtype)
    mixed = custom_op.time_attention(*halves, gate.to(dtype), 20, mask, _single(norms))
    assert mixed.dtype == dtype
    exact = _loops(case, *(part.double() for part in halves), gate.to(dtype).double(), norms)
    assert_relative_close(mixed, exact, 2 * torch.finfo(dtype).eps)
    in_single = custom_op.time_attention(*halves, gate.float(), 20, mask, _single(norms))
    assert in_single.dtype == torch.float32  # as for torch, the wider of values and gate
    # Weights are held in half precision, as where torch multiplies matrices; values are not rounded once more.
    assert_relative_close(
        in_single, _loops(case, *(part.double() for part in halves), gate, norms), torch.finfo(dtype).eps
    )


def test_operator_is_sound() -> None:
    """Its fake version, its aliases and dynamic shapes."""
    case = _case(4, 3, batch=1)
    rows, gate, mask, norms = _tensors(case)
    assert norms is not None
    arguments = (*_as_slices(rows, torch.float32), gate.float(), 4, mask, norms.query.float(), norms.key.float(), EPS)
    torch.library.opcheck(custom_op._forward, arguments)


@pytest.mark.parametrize(("positions", "tiles"), [(1, 1), (240, 60), (240, 30), (3600, 12), (3600, 40), (240, 5000)])
def test_blocks_cover_all_positions_and_none_is_empty(positions: int, tiles: int) -> None:
    span = launch.block_span(positions, tiles)
    blocks = -(-positions // span)
    assert (blocks - 1) * span < positions <= blocks * span
    assert blocks * tiles <= max(2 * 1056, tiles)


def test_kernels_serve_prediction_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, wide = torch.zeros(1, 4, 32), torch.zeros(1, 4, 128)
    with torch.no_grad():
        assert not runs_kernels(rows, 2, 32)  # a CPU
        assert runs_kernels(rows, MAX_TIMES, 32, "triton")
        assert not runs_kernels(rows, MAX_TIMES + 1, 32, "triton")
        assert runs_kernels(wide.bfloat16(), MAX_TIMES, 128, "triton")
        assert runs_kernels(wide, MAX_TIMES // 2, 128, "triton")
        assert not runs_kernels(wide, MAX_TIMES // 2 + 1, 128, "triton")  # no room for tiles in single precision
        assert not runs_kernels(rows, 2, 32, "reference")
        with pytest.raises(UserError, match="48 wide"):
            runs_kernels(rows, 2, 48, "triton")
    assert not runs_kernels(rows, 2, 32, "triton")
    scan_dispatch._choose.cache_clear()
    monkeypatch.setattr(scan_dispatch, "_FROM_ENVIRONMENT", "triton")
    with torch.no_grad():
        assert runs_kernels(rows, 2, 32)
    scan_dispatch._choose.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("count", [2, 16, 21, 46, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(count: int, head_dim: int, dtype: torch.dtype) -> None:
    if count > MAX_TIMES // 2 and head_dim == 128 and dtype == torch.float32:
        pytest.skip("served by torch")
    case = _case(count, 30, head_dim=head_dim, num_heads=3)
    rows, gate, mask, norms = _tensors(case)
    rows = tuple(part.cuda() for part in _as_slices(rows, dtype))
    assert norms is not None
    norms = HeadNorms(norms.query.to("cuda", dtype), norms.key.to("cuda", dtype), EPS)
    gate, mask = gate.to("cuda", dtype), mask.cuda()
    mixed = custom_op.time_attention(*rows, gate, count, mask, norms)
    wide = HeadNorms(norms.query.double(), norms.key.double(), EPS)
    exact = reference.time_attention(*(part.double() for part in rows), gate.double(), count, mask, wide)
    assert_relative_close(mixed.double(), exact, max(4 * torch.finfo(dtype).eps, TOLERANCE))
    assert torch.equal(mixed, custom_op.time_attention(*rows, gate, count, mask, norms))
