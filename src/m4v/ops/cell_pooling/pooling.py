"""Rows averaged into cells and brought back, by index: the two maps of a pooling that knows its members.

Every row belongs to one cell. Each map is the other's transpose up to the size of a cell, so both directions are
gathers, forward and backward: no atomics, the same result on every run, and a handful of launches however many frames
the rows come from.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from m4v.ops.scan_section.dispatch import choose_backend

# Rows are pooled channel by channel, so a head of any width that scans take will do.
_ANY_WIDTH = 64


class CellIndex(NamedTuple):
    """Which rows make which cell.

    Attributes:
        cell: Cell of each row.
        first: One row of each cell; all of it where a cell is a single row.
        shared: Cells of several rows, ascending.
        members: Rows of each of these, all equally often, as often as it takes to fill the line.
        share: One over the number of rows in each row's cell.
        sizes: Rows of each cell.
        line: Place of each shared cell in `members`; 0 for others.
    """

    cell: Int[Tensor, "n"]
    first: Int[Tensor, "c"]
    shared: Int[Tensor, "m"]
    members: Int[Tensor, "m q"]
    share: Float[Tensor, "n"]
    sizes: Int[Tensor, "c"]
    line: Int[Tensor, "c"]


def _pool(rows: Tensor, index: CellIndex) -> Tensor:
    cells = rows.index_select(1, index.first)
    if index.shared.numel():
        members = rows.index_select(1, index.members.flatten()).unflatten(1, index.members.shape)
        cells = cells.index_copy(1, index.shared, members.mean(2))
    return cells


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: CellIndex) -> Tensor:
        ctx.index = index
        return _pool(rows, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        index = ctx.index
        return grad.index_select(1, index.cell) * index.share[:, None].to(grad.dtype), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, index: CellIndex) -> Tensor:
        ctx.index = index
        return cells.index_select(1, index.cell)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        index = ctx.index
        return _pool(grad, index) * index.sizes[:, None].to(grad.dtype), None


def pool(rows: Float[Tensor, "b n d"], index: CellIndex) -> Float[Tensor, "b c d"]:
    """Mean of the rows of every cell; without gradients by a kernel, where scans run by kernels."""
    if torch.is_grad_enabled():
        cells: Tensor = _Pool.apply(rows, index)  # type: ignore[no-untyped-call]
        return cells
    if choose_backend(rows.device, rows.dtype, _ANY_WIDTH, _ANY_WIDTH) == "reference":
        return _pool(rows, index)
    # Kernels are imported where they are used: Triton is optional.
    from m4v.ops.cell_pooling import custom_op

    pooled: Tensor = custom_op.pool(rows, index.first, index.line, index.sizes, index.members)
    return pooled


def spread(cells: Float[Tensor, "b c d"], index: CellIndex) -> Float[Tensor, "b n d"]:
    """Give every row its cell."""
    if not torch.is_grad_enabled():
        return cells.index_select(1, index.cell)
    rows: Tensor = _Spread.apply(cells, index)  # type: ignore[no-untyped-call]
    return rows
