"""The pooling kernel as a torch operator, so that `torch.compile` and fake tensors know it; for prediction only."""

import torch
import triton
from torch import Tensor

from m4v.ops.cell_pooling.kernels import pool_kernel

_WIDEST_BLOCK = 2048


@torch.library.custom_op("m4v::cell_pool", mutates_args=())
def pool(rows: Tensor, first: Tensor, line: Tensor, sizes: Tensor, members: Tensor) -> Tensor:
    """Mean of the rows (b n d) of every cell (b c d); see `pooling.CellIndex` for the rest."""
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    batch, _, width = rows.shape
    cells = rows.new_empty(batch, first.shape[0], width)
    block = min(triton.next_power_of_2(width), _WIDEST_BLOCK)
    with torch.cuda.device_of(rows):
        pool_kernel[(first.shape[0], triton.cdiv(width, block), batch)](
            rows, first, line, sizes, members, cells, width, members.shape[1], rows.stride(0), rows.stride(1),
            BLOCK=block, num_warps=max(min(block // 512, 4), 1),
        )  # fmt: skip
    return cells


@pool.register_fake
def _(rows: Tensor, first: Tensor, line: Tensor, sizes: Tensor, members: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], first.shape[0], rows.shape[2])
