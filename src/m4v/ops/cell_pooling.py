"""Rows averaged into cells and brought back, by index: the two maps of a pooling that knows its members.

Every row belongs to one cell. Each map is the other's transpose up to the size of a cell, so both directions are
gathers, forward and backward: no atomics, the same result on every run, and a handful of launches however many frames
the rows come from.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CellIndex(NamedTuple):
    """Which rows make which cell.

    Attributes:
        cell: Cell of each row.
        first: One row of each cell; all of it where a cell is a single row.
        shared: Cells of several rows, ascending.
        members: Rows of each of these, all equally often, as often as it takes to fill the line.
        share: One over the number of rows in each row's cell.
    """

    cell: Int[Tensor, "n"]
    first: Int[Tensor, "c"]
    shared: Int[Tensor, "m"]
    members: Int[Tensor, "m q"]
    share: Float[Tensor, "n"]


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
        sizes = 1 / index.share.index_select(0, index.first)
        return _pool(grad, index) * sizes[:, None].to(grad.dtype), None


def pool(rows: Float[Tensor, "b n d"], index: CellIndex) -> Float[Tensor, "b c d"]:
    """Mean of the rows of every cell."""
    cells: Tensor = _Pool.apply(rows, index)  # type: ignore[no-untyped-call]
    return cells


def spread(cells: Float[Tensor, "b c d"], index: CellIndex) -> Float[Tensor, "b n d"]:
    """Give every row its cell."""
    rows: Tensor = _Spread.apply(cells, index)  # type: ignore[no-untyped-call]
    return rows
