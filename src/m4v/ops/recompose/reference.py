"""Token re-composition by index, in plain torch (Sec. 3.3, Fig. 2c).

Two linear maps that are each other's transpose: `recompose` reads source rows into scan order (a text row twice, a
register row once per frame), `invert` brings scan order back, dropping registers and summing text copies. Writing both
as gathers keeps forward and backward free of atomics, so results are the same on every run.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RowOrder(NamedTuple):
    """Where every row goes, for one batch; see `recomposition.plan` for how it is built.

    Attributes:
        index: Source token row of each scan position; register positions hold 0 and are overwritten.
        positions: Scan position of each token row (text rows: of their first copy).
        text_copy_positions: Scan positions of the second text copy; no columns if text stands once.
        register_positions: Scan positions of registers, ascending.
        register_levels: Which register stands there.
    """

    index: Int[Tensor, "b scan"]  # type: ignore[assignment]  # hides tuple.index
    positions: Int[Tensor, "b n"]
    text_copy_positions: Int[Tensor, "b l"]
    register_positions: Int[Tensor, "r"]
    register_levels: Int[Tensor, "r"]


def _rows(source: Tensor, index: Tensor) -> Tensor:
    """`out[b, i] = source[b, index[b, i]]` as one flat index_select, the fastest row gather on CPUs and GPUs alike."""
    batch, num_rows, width = source.shape
    offsets = torch.arange(batch, device=source.device)[:, None] * num_rows
    flat = source.reshape(batch * num_rows, width).index_select(0, (index + offsets).flatten())
    return flat.view(batch, index.shape[1], width)


def _recompose(tokens: Tensor, registers: Tensor | None, order: RowOrder) -> Tensor:
    scanned = _rows(tokens, order.index)
    if order.register_positions.numel():
        rows = torch.zeros_like(scanned[:1, :1, :]) if registers is None else registers[order.register_levels]
        rows = rows.to(scanned.dtype).expand(scanned.shape[0], *order.register_positions.shape, -1)
        # In place costs no copy, but compiled by torch 2.11 it loses gradients of the function around it (pytorch issue
        # 180642).
        put = scanned.index_copy if torch.compiler.is_compiling() else scanned.index_copy_
        return put(1, order.register_positions, rows)
    return scanned


def _invert(scanned: Tensor, order: RowOrder) -> Tensor:
    tokens = _rows(scanned, order.positions)
    num_text = order.text_copy_positions.shape[1]
    if not num_text:
        return tokens
    copies = _rows(scanned, order.text_copy_positions)
    if torch.compiler.is_compiling():  # nothing in place, as above
        return torch.cat([tokens[:, :num_text] + copies, tokens[:, num_text:]], dim=1)
    tokens[:, :num_text] += copies
    return tokens


class _Recompose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, registers: Tensor, order: RowOrder) -> Tensor:
        ctx.order, ctx.num_registers = order, registers.shape[0]
        return _recompose(tokens, registers, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        order = ctx.order
        wide = torch.promote_types(grad.dtype, torch.float32)
        per_frame = grad[:, order.register_positions].to(wide).sum(0)
        selector = order.register_levels == torch.arange(ctx.num_registers, device=grad.device)[:, None]
        return _invert(grad, order), (selector.to(wide) @ per_frame).to(grad.dtype), None


class _Invert(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scanned: Tensor, order: RowOrder) -> Tensor:
        ctx.order = order
        return _invert(scanned, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return _recompose(grad, None, ctx.order), None


def recompose(
    tokens: Float[Tensor, "b n d"], registers: Float[Tensor, "k d"], order: RowOrder
) -> Float[Tensor, "b scan d"]:
    """Bring token rows (text first, then video) and registers into scan order."""
    scanned: Tensor = _Recompose.apply(tokens, registers.to(tokens.dtype), order)  # type: ignore[no-untyped-call]
    return scanned


def recompose_strips(
    tokens: Float[Tensor, "b n d"], registers: Float[Tensor, "k d"], order: RowOrder, length: int
) -> Iterator[Float[Tensor, "b strip d"]]:
    """Rows of `recompose`, `length` of them at a time.

    On a processor, where nothing is differentiated or traced, each strip is read when it is asked for and the whole
    never exists. On a device, finding the registers of a strip would make the host wait.
    """
    is_host = tokens.device.type == "cpu" and type(tokens) is Tensor
    if not is_host or torch.is_grad_enabled() or torch.compiler.is_compiling():
        yield from recompose(tokens, registers, order).split(length, dim=1)
        return
    strips = order.index.split(length, dim=1)
    starts = torch.arange(len(strips) + 1, device=order.index.device) * length
    seams = torch.searchsorted(order.register_positions, starts).tolist()
    for number, index in enumerate(strips):
        here = slice(seams[number], seams[number + 1])
        positions = order.register_positions[here] - number * length
        strip = order._replace(index=index, register_positions=positions, register_levels=order.register_levels[here])
        yield _recompose(tokens, registers, strip)


def invert(scanned: Float[Tensor, "b scan d"], order: RowOrder) -> Float[Tensor, "b n d"]:
    """Return scan order to token order: registers dropped, both text copies summed."""
    tokens: Tensor = _Invert.apply(scanned, order)  # type: ignore[no-untyped-call]
    return tokens
