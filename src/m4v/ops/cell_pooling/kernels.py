# mypy: ignore-errors
"""Means of the rows of every cell, each row read once."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["line_length"])
def pool_kernel(
    rows_ptr, first_ptr, line_ptr, sizes_ptr, members_ptr, out_ptr, width, line_length, batch_stride, row_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum in fp32 over the members of a cell, by their number. Grid: cells, blocks of channels, batch."""
    cell, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_channel = channel < width
    size, line = tl.load(sizes_ptr + cell), tl.load(line_ptr + cell)
    members_ptr += line * line_length
    rows_ptr += batch * batch_stride + channel
    total = tl.load(rows_ptr + tl.load(first_ptr + cell) * row_stride, mask=is_channel, other=0.0).to(tl.float32)
    for member in range(1, size):
        row = tl.load(members_ptr + member)
        total += tl.load(rows_ptr + row * row_stride, mask=is_channel, other=0.0).to(tl.float32)
    out_ptr += (batch * tl.num_programs(0) + cell) * width + channel
    tl.store(out_ptr, (total / size).to(out_ptr.dtype.element_ty), mask=is_channel)
