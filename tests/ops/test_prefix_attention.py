"""Attention by prefixes against attention with the mask of all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m4v.ops import prefix_attention as module
from m4v.ops.attention import attention
from m4v.ops.prefix_attention import PrefixOrder, prefix_attention
from tests.assertions import assert_relative_close


def _order(num_text: int, sizes: list[int], lengths: list[int]) -> PrefixOrder:
    bounds = torch.tensor([num_text, *sizes]).cumsum(0)
    return PrefixOrder(bounds, torch.tensor(lengths))


def _mask(num_text: int, sizes: list[int], lengths: list[int]) -> Tensor:
    segment = [0] * num_text + [number for number, size in enumerate(sizes) for _ in range(size)]
    rows = []
    for length in lengths:
        padding = [length <= token < num_text for token in range(len(segment))]
        sees = [
            [padding[q] == padding[k] and segment[q] >= segment[k] for k in range(len(segment))]
            for q in range(len(segment))
        ]
        rows.append(sees)
    return torch.tensor(rows)[:, None]


def _inputs(batch: int, length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(batch, length, 2, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


def _with_gradients(run, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    operands = [t.clone().requires_grad_() for t in (query, key, value)]
    mixed = run(*operands)
    return (mixed.detach(), *torch.autograd.grad(mixed, operands, gradient))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_equals_the_mask_of_all_pairs_with_gradients(num_text: int, sizes: list[int], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, num_text), min_size=1, max_size=4))
    order, mask = _order(num_text, sizes, lengths), _mask(num_text, sizes, lengths)
    inputs = _inputs(len(lengths), num_text + sum(sizes))
    expected = _with_gradients(lambda q, k, v: attention(q, k, v, mask), *inputs)
    found = _with_gradients(lambda q, k, v: prefix_attention(q, k, v, order), *inputs)
    for one, other in zip(found, expected, strict=True):  # a single key has a gradient of exactly zero
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(prefix_attention(*inputs[:3], order), found[0])


def test_hidden_tokens_are_not_touched_even_if_they_are_not_numbers() -> None:
    order = _order(3, [2, 2], [1])
    query, key, value, _ = _inputs(1, 7)
    seen = prefix_attention(query, key, value, order)[:, [0, 3, 4]]
    for t in (query, key, value):
        t[:, [1, 2, 5, 6]] = torch.nan
    assert torch.equal(prefix_attention(query, key, value, order)[:, [0, 3, 4]], seen)


def test_samples_alike_share_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        module, "attention", lambda q, k, v: calls.append((q.shape[:2], k.shape[1])) or attention(q, k, v)
    )
    prefix_attention(*_inputs(3, 9)[:3], _order(3, [2, 4], [3, 3, 1]))
    assert calls == [((2, 5), 5), ((2, 4), 9), ((1, 2), 2), ((1, 3), 3), ((1, 4), 7)]


def test_many_segments_keep_the_digits_of_half_precision() -> None:
    """Keys of the first frame collect a term from each of 64 segments."""
    sizes = [1] * 64
    order, mask = _order(0, sizes, [0]), _mask(0, sizes, [0])
    inputs = _inputs(1, 64, torch.bfloat16)
    expected = _with_gradients(lambda q, k, v: attention(q, k, v, mask), *(t.double() for t in inputs))
    found = _with_gradients(lambda q, k, v: prefix_attention(q, k, v, order), *inputs)
    for one, other in zip(found, expected, strict=True):
        assert_relative_close(one.double(), other, 0.01)


def test_the_operators_keep_the_rules_of_torch() -> None:
    order = _order(3, [2, 4], [3, 1])
    query, key, value, _ = _inputs(2, 9)
    operands = [t.requires_grad_() for t in (query, key, value)]
    torch.library.opcheck(torch.ops.m4v.prefix_attention, (*operands, order.bounds, order.text_lengths))


def test_one_compiled_graph_serves_any_number_of_segments() -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(
        lambda q, k, v, order: 2 * prefix_attention(q, k, v, order), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    # No two sizes alike in the first call: the compiler would take them for one.
    for sizes, lengths in (([2, 5, 7, 3], [3, 3]), ([2, 2, 5], [1, 3]), ([1, 2, 2, 5, 7], [2, 0])):
        order = _order(3, sizes, lengths)
        inputs = _inputs(2, 3 + sum(sizes))
        expected = _with_gradients(lambda q, k, v, order=order: 2 * prefix_attention(q, k, v, order), *inputs)
        found = _with_gradients(lambda q, k, v, order=order: compiled(q, k, v, order), *inputs)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert counters["stats"]["unique_graphs"] == 1


def test_only_pairs_that_see_each_other_are_computed() -> None:
    order, mask = _order(3, [2, 4], [3, 1]), _mask(3, [2, 4], [3, 1])
    *operands, gradient = _inputs(2, 9)
    operands = [t.requires_grad_() for t in operands]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        mixed = prefix_attention(*operands, order)
    pairs = int(mask.sum())
    assert counter.get_total_flops() == 2 * 2 * pairs * 2 * 8  # two products, two heads of eight channels
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        mixed.backward(gradient)
    assert counter.get_total_flops() == 3 * 2 * 2 * pairs * 2 * 8  # forward again, then twice as much
