# mypy: ignore-errors
# ruff: noqa: RUF005 - the compiler knows tuples by their sum
"""From projected rows in token order to x, B, C and step sizes in scan order: one pass, everything per token.

A program walks a span of scan positions for some heads side by side, each thread the same channels all the way: rows
are read once, the taps of the convolution find the earlier ones in registers. All rows of a step are requested before
any is used, and nothing is stored before all are computed, because no load may pass a store.
"""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import gather_rows, read_code, rotate, silu, softplus


@triton.jit
def _load_row(
    rows_ptr, register_ptr, source_ptr, position, num_tokens, num_rows, row_stride, register_stride, offsets,
    CONV: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Channels of the row at one scan position; zero outside, and on padding where there is a convolution."""
    OUTSIDE: tl.constexpr = -2147483648  # the negative number that no padding has
    code = tl.load(source_ptr + position, mask=(position >= 0) & (position < num_tokens), other=OUTSIDE)
    # One for every channel, which the interpreter needs to make a mask of it.
    codes = code + 0 * offsets
    if CONV:
        row, mask = code, codes >= 0
    else:
        row, mask = tl.where(code >= 0, code, -code - 1), codes != OUTSIDE
    pointer = rows_ptr + row.to(tl.int64) * row_stride
    if HAS_REGISTERS:
        register = register_ptr + (row - num_rows).to(tl.int64) * register_stride
        pointer = tl.where(row < num_rows, pointer, register)
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def _walk(
    rows_ptr, register_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_ptr, cos_ptr, sin_ptr, out_ptr, begin, end,
    first_head, num_tokens, num_rows, num_heads, row_stride, register_stride, eps,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, UNROLL: tl.constexpr, CONV_WIDTH: tl.constexpr, TAPS: tl.constexpr,
    SILU: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """One of x, B and C of some heads; pointers stand at its first channel."""
    CONV: tl.constexpr = CONV_WIDTH > 0
    head = first_head + tl.arange(0, HEADS)
    channel = tl.arange(0, WIDTH)
    is_head = (head < num_heads)[:, None]
    # Beyond the last head its rows are read once more, which spares loads a mask.
    offsets = tl.minimum(head, num_heads - 1)[:, None] * WIDTH + channel[None, :]
    out = out_ptr + (head.to(tl.int64)[:, None] * num_tokens + begin) * WIDTH + channel[None, :]
    pair = tl.arange(0, WIDTH // 2)
    cos_ptr += begin * (WIDTH // 2)
    sin_ptr += begin * (WIDTH // 2)
    if NORM:
        norm = tl.load(norm_ptr + channel).to(tl.float32)[None, :]
    weights = ()
    earlier = ()
    if CONV:
        tap = tl.arange(0, TAPS)[None, None, :]
        taps = tl.load(conv_weight_ptr + offsets[:, :, None] * CONV_WIDTH + tap, mask=tap < CONV_WIDTH, other=0.0)
        for t in tl.static_range(CONV_WIDTH):
            weights = weights + (tl.sum(tl.where(tap == t, taps.to(tl.float32), 0.0), 2),)
        for t in tl.static_range(CONV_WIDTH - 1):
            row = _load_row(
                rows_ptr, register_ptr, source_ptr, begin - (CONV_WIDTH - 1) + t, num_tokens, num_rows, row_stride,
                register_stride, offsets, CONV, HAS_REGISTERS,
            )  # fmt: skip
            earlier = earlier + (row,)
        bias = tl.load(conv_bias_ptr + offsets).to(tl.float32)

    for step in range(0, end - begin, UNROLL):
        start = begin + step
        rows = earlier
        for u in tl.static_range(UNROLL):
            row = _load_row(
                rows_ptr, register_ptr, source_ptr, start + u, num_tokens, num_rows, row_stride, register_stride,
                offsets, CONV, HAS_REGISTERS,
            )  # fmt: skip
            rows = rows + (row,)
        done = ()
        for u in tl.static_range(UNROLL):
            if CONV:
                value = bias
                for t in tl.static_range(CONV_WIDTH):
                    value += rows[u + t].to(tl.float32) * weights[t]
            else:
                value = rows[u].to(tl.float32)
            if SILU:
                value = silu(value)
            if NORM:
                value = value * tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)[:, None] * norm
            if ROTARY:
                mask = start + u + 0 * pair < end
                cos = tl.load(cos_ptr + (u * (WIDTH // 2) + pair), mask=mask, other=0.0)[None, :]
                sin = tl.load(sin_ptr + (u * (WIDTH // 2) + pair), mask=mask, other=0.0)[None, :]
                value = rotate(value, cos, sin, HEADS, WIDTH)
            done = done + (value.to(out_ptr.dtype.element_ty),)
        for u in tl.static_range(UNROLL):
            tl.store(out + u * WIDTH, done[u], mask=is_head & (start + u + 0 * offsets < end))
        out += UNROLL * WIDTH
        cos_ptr += UNROLL * (WIDTH // 2)
        sin_ptr += UNROLL * (WIDTH // 2)
        if CONV_WIDTH > 1:
            earlier = rows[UNROLL:]


@triton.jit(
    do_not_specialize=["num_tokens", "num_rows", "span", "dt_batch_stride", "dt_row_stride", "register_dt_stride"],
)
def prepare_kernel(
    rows_ptr, register_ptr, dt_raw_ptr, register_dt_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, dt_bias_ptr,
    norm_b_ptr, norm_c_ptr, cos_ptr, sin_ptr, x_ptr, b_ptr, c_ptr, dt_ptr,
    num_tokens, num_rows, num_heads, span, batch_stride, row_stride, register_stride, dt_batch_stride, dt_row_stride,
    register_dt_stride, eps,
    P: tl.constexpr, N: tl.constexpr, HEADS: tl.constexpr, UNROLL: tl.constexpr, CONV_WIDTH: tl.constexpr,
    TAPS: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Grid: three times blocks of HEADS heads (x with step sizes, B, C), spans of positions, batch.

    Outputs are [batch, head, token, channel], so that tiles are contiguous. A span is a multiple of UNROLL.
    """
    blocks = tl.num_programs(0) // 3
    part = tl.program_id(0) // blocks
    first_head = tl.program_id(0) % blocks * HEADS
    batch = tl.program_id(2).to(tl.int64)
    begin = tl.program_id(1).to(tl.int64) * span
    end = tl.minimum(begin + span, num_tokens)
    width = num_heads * P
    source_ptr += batch * num_tokens
    rows_ptr += batch * batch_stride + width
    register_ptr += width
    tile = batch * num_heads * num_tokens

    if part == 0:
        _walk(
            rows_ptr, register_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_b_ptr, cos_ptr, sin_ptr,
            x_ptr + tile * P, begin, end, first_head, num_tokens, num_rows, num_heads, row_stride, register_stride, eps,
            P, HEADS, UNROLL, CONV_WIDTH, TAPS, SILU, False, False, HAS_REGISTERS,
        )  # fmt: skip
        head = first_head + tl.arange(0, HEADS)
        is_head = head < num_heads
        bias = tl.load(dt_bias_ptr + head, mask=is_head, other=0.0).to(tl.float32)
        dt_raw_ptr += batch * dt_batch_stride
        for first in range(0, end - begin, 16):
            position = begin + first + tl.arange(0, 16)
            row, is_real = read_code(source_ptr, position, num_tokens)
            raw = gather_rows(
                dt_raw_ptr, register_dt_ptr, row, is_real, num_rows, dt_row_stride, register_dt_stride,
                tl.minimum(head, num_heads - 1), HAS_REGISTERS,
            )  # fmt: skip
            # Padding takes no step: the state passes through and nothing is written to it.
            step = tl.where(is_real[:, None], softplus(raw + bias[None, :]), 0.0)
            offsets = tile + head.to(tl.int64)[None, :] * num_tokens + position[:, None]
            tl.store(dt_ptr + offsets, step, mask=is_head[None, :] & (position < end)[:, None])
    else:
        skip = width + (part - 1) * num_heads * N
        _walk(
            rows_ptr + skip, register_ptr + skip, source_ptr, conv_weight_ptr + skip * CONV_WIDTH, conv_bias_ptr + skip,
            tl.where(part == 1, norm_b_ptr, norm_c_ptr), cos_ptr, sin_ptr, tl.where(part == 1, b_ptr, c_ptr) + tile * N,
            begin, end, first_head, num_tokens, num_rows, num_heads, row_stride, register_stride, eps,
            N, HEADS, UNROLL, CONV_WIDTH, TAPS, SILU, NORM, ROTARY, HAS_REGISTERS,
        )  # fmt: skip
