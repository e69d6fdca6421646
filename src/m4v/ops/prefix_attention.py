"""Attention in which every segment of a sequence sees itself and all segments before it, without a mask.

The keys of a segment are then a prefix of the sequence, so each segment is one call of an unmasked kernel: exact,
nothing to compile, and pairs that may not see each other are not computed. The first tokens are text, padded at its
end; padding sees padding only and is taken out of the other segments' keys.

A sequence has as many calls as segments. To a compiler both directions are operators of their own, one node whatever
the number of segments; elsewhere the calls are plain ones, so that counters of operations see them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from m4v.ops.attention import attention


@dataclass(frozen=True)
class PrefixOrder:
    """Segments of a batch of sequences, as data on the host: it decides which calls are made.

    Attributes:
        bounds: Number of text tokens, then the end of every segment; text belongs to the first one.
        text_lengths: Real text tokens of each sample; padding follows them.
    """

    bounds: Int[Tensor, "segments+1"]
    text_lengths: Int[Tensor, "b"]


def prefix_attention(
    query: Float[Tensor, "b n g p"],
    key: Float[Tensor, "b n g p"],
    value: Float[Tensor, "b n g p"],
    order: PrefixOrder,
) -> Float[Tensor, "b n g p"]:
    """Attend with scale `p ** -0.5`; segments see themselves and what is before them, padding sees padding.

    Gradients cost one more forward pass, segment by segment, and no memory beyond the inputs.
    """
    if torch.compiler.is_compiling():
        mixed: Tensor = _prefix_attention(query, key, value, order.bounds, order.text_lengths)
    else:
        mixed = _PrefixAttention.apply(query, key, value, order)  # type: ignore[no-untyped-call]
    return mixed


@dataclass(frozen=True)
class _Document:
    """Samples with the same number of real text tokens.

    Attributes:
        samples: Where they are in the batch.
        padding: Their text padding.
        ends: Ends of the segments once padding is gone.
    """

    samples: slice
    padding: slice
    ends: tuple[int, ...]

    @property
    def is_padded(self) -> bool:
        """Whether there is padding."""
        return bool(self.padding.start < self.padding.stop)

    def real(self, tokens: Tensor) -> Tensor:
        """Rows that are not padding: a view where there is none."""
        rows = tokens[self.samples]
        if not self.is_padded:
            return rows
        return torch.cat([rows[:, : self.padding.start], rows[:, self.padding.stop :]], dim=1)

    def place(self, real: Tensor, target: Tensor) -> None:
        """Write rows that are not padding to where they came from."""
        start, stop = self.padding.start, self.padding.stop
        target[self.samples, :start] = real[:, :start]
        target[self.samples, stop:] = real[:, start:]

    def segments(self) -> Iterator[tuple[slice, slice]]:
        """Queries and keys of each segment, among rows that are not padding."""
        for start, end in pairwise((0, *self.ends)):
            yield slice(start, end), slice(0, end)


def _documents(order: PrefixOrder) -> Iterator[_Document]:
    """Neighbours in the batch go together when their prompts are equally long."""
    num_text, *ends = order.bounds.tolist()
    lengths: Sequence[int] = order.text_lengths.tolist()
    starts = [i for i, length in enumerate(lengths) if i == 0 or length != lengths[i - 1]]
    for first, last in pairwise((*starts, len(lengths))):
        length = lengths[first]
        yield _Document(slice(first, last), slice(length, num_text), tuple(end - num_text + length for end in ends))


def _attend(query: Tensor, key: Tensor, value: Tensor, order: PrefixOrder) -> Tensor:
    mixed = _empty(query)
    for document in _documents(order):
        rows = (document.samples, document.padding)
        if document.is_padded:
            mixed[rows] = attention(query[rows], key[rows], value[rows])
        real_query, real_key, real_value = (document.real(t) for t in (query, key, value))
        real = _empty(real_query) if document.is_padded else mixed[document.samples]
        for queries, keys in document.segments():
            real[:, queries] = attention(real_query[:, queries], real_key[:, keys], real_value[:, keys])
        if document.is_padded:
            document.place(real, mixed)
    return mixed


def _attend_backward(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, order: PrefixOrder
) -> tuple[Tensor, Tensor, Tensor]:
    operands = (query, key, value)
    results = _empty(query), _empty(key), _empty(value)
    for document in _documents(order):
        rows = (document.samples, document.padding)
        if document.is_padded:
            parts = _gradients(query[rows], key[rows], value[rows], gradient[rows])
            for result, part in zip(results, parts, strict=True):
                result[rows] = part
        real_query, real_key, real_value, real_gradient = (document.real(t) for t in (*operands, gradient))
        query_sum = _empty(real_query)
        # Early keys are seen by every segment: as many terms would lose digits in half precision.
        precise = torch.promote_types(key.dtype, torch.float32)
        key_sum, value_sum = (torch.zeros(t.shape, dtype=precise, device=t.device) for t in (real_key, real_value))
        for queries, keys in document.segments():
            parts = _gradients(
                real_query[:, queries], real_key[:, keys], real_value[:, keys], real_gradient[:, queries]
            )
            query_sum[:, queries] = parts[0]
            key_sum[:, keys] += parts[1]
            value_sum[:, keys] += parts[2]
        for result, real in zip(results, (query_sum, key_sum, value_sum), strict=True):
            document.place(real, result)
    return results


def _gradients(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        query, key, value = (t.detach().requires_grad_() for t in (query, key, value))
        for_query, for_key, for_value = torch.autograd.grad(attention(query, key, value), (query, key, value), gradient)
    return for_query, for_key, for_value


def _empty(like: Tensor) -> Tensor:
    # Contiguous whatever the strides of the tensor at hand, as the compiler is told.
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, order: PrefixOrder) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.order = order
        return _attend(query, key, value, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value = ctx.saved_tensors
        return (*_attend_backward(query, key, value, gradient, ctx.order), None)


@torch.library.custom_op("m4v::prefix_attention", mutates_args=())
def _prefix_attention(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, text_lengths: Tensor) -> Tensor:
    return _attend(query, key, value, PrefixOrder(bounds, text_lengths))


@_prefix_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, text_lengths: Tensor) -> Tensor:
    return _empty(query)


# Defined without an autograd rule, unlike the operator above: autograd stays at work inside it.
torch.library.define(
    "m4v::prefix_attention_backward",
    "(Tensor query, Tensor key, Tensor value, Tensor gradient, Tensor bounds, Tensor text_lengths)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("m4v::prefix_attention_backward", "CompositeExplicitAutograd")
def _(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, bounds: Tensor, text_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _attend_backward(query, key, value, gradient, PrefixOrder(bounds, text_lengths))


@torch.library.register_fake("m4v::prefix_attention_backward")
def _(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, bounds: Tensor, text_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(query), _empty(key), _empty(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    query, key, value, bounds, text_lengths = ctx.saved_tensors
    gradients = torch.ops.m4v.prefix_attention_backward(query, key, value, gradient, bounds, text_lengths)
    return (*gradients, None, None)


_prefix_attention.register_autograd(_differentiate, setup_context=_save)
