# mypy: ignore-errors
"""From projected rows in token order to x, B, C and step sizes in scan order: one pass, everything per token."""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import convolve, gather_rows, read_code, rotate, softplus, store_tile


@triton.jit
def _norm_and_turn(
    value, norm_ptr, cos_ptr, sin_ptr, start, num_tokens, eps,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, WIDTH)
    if NORM:
        scale = tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)
        value = value * scale[:, None] * tl.load(norm_ptr + channel).to(tl.float32)[None, :]
    if ROTARY:
        token = tl.arange(0, TOKENS)
        offsets = token[:, None] * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :] + start * (WIDTH // 2)
        mask = (token < num_tokens - start)[:, None]
        cos = tl.load(cos_ptr + offsets, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + offsets, mask=mask, other=0.0)
        value = rotate(value, cos, sin, TOKENS, WIDTH)
    return value


@triton.jit(
    do_not_specialize=["num_tokens", "num_rows", "dt_batch_stride", "dt_row_stride", "register_dt_stride"],
)
def prepare_kernel(
    rows_ptr, register_ptr, dt_raw_ptr, register_dt_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, dt_bias_ptr,
    norm_b_ptr, norm_c_ptr, cos_ptr, sin_ptr, x_ptr, b_ptr, c_ptr, dt_ptr,
    num_tokens, num_rows, num_heads, batch_stride, row_stride, register_stride, dt_batch_stride, dt_row_stride,
    register_dt_stride, eps,
    P: tl.constexpr, N: tl.constexpr, TOKENS: tl.constexpr, CONV_WIDTH: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of tokens, three times heads (x with step sizes, B and C side by side), batch.

    Outputs are [batch, head, token, channel], so that tiles are contiguous.
    """
    start = tl.program_id(0).to(tl.int64) * TOKENS
    part, head, batch = tl.program_id(1) % 3, tl.program_id(1) // 3, tl.program_id(2).to(tl.int64)
    position = start + tl.arange(0, TOKENS)
    source_ptr += batch * num_tokens
    rows_ptr += batch * batch_stride
    tile = (batch * num_heads + head) * num_tokens
    width = num_heads * P

    if part == 0:
        first = head * P
        channel = tl.arange(0, P)
        value = convolve(
            rows_ptr + width + first, register_ptr + width + first, source_ptr, conv_weight_ptr, conv_bias_ptr,
            position, num_tokens, num_rows, row_stride, register_stride, channel, first + channel, CONV_WIDTH,
            HAS_REGISTERS,
        )  # fmt: skip
        if SILU:
            value = value * tl.sigmoid(value)
        store_tile(x_ptr + tile * P, value, start, num_tokens, TOKENS, P)

        row, is_real, inside = read_code(source_ptr, position, num_tokens)
        raw = gather_rows(
            dt_raw_ptr + batch * dt_batch_stride + head, register_dt_ptr + head, row, is_real, num_rows, dt_row_stride,
            register_dt_stride, tl.arange(0, 1), HAS_REGISTERS,
        )  # fmt: skip
        step = softplus(tl.sum(raw, 1) + tl.load(dt_bias_ptr + head).to(tl.float32))
        # Padding takes no step: the state passes through and nothing is written to it.
        tl.store(dt_ptr + tile + position, tl.where(is_real, step, 0.0), mask=inside)
    else:
        first = width + (part - 1) * num_heads * N + head * N
        channel = tl.arange(0, N)
        value = convolve(
            rows_ptr + width + first, register_ptr + width + first, source_ptr, conv_weight_ptr, conv_bias_ptr,
            position, num_tokens, num_rows, row_stride, register_stride, channel, first + channel, CONV_WIDTH,
            HAS_REGISTERS,
        )  # fmt: skip
        if SILU:
            value = value * tl.sigmoid(value)
        norm_ptr = tl.where(part == 1, norm_b_ptr, norm_c_ptr)
        value = _norm_and_turn(value, norm_ptr, cos_ptr, sin_ptr, start, num_tokens, eps, TOKENS, N, NORM, ROTARY)
        store_tile(tl.where(part == 1, b_ptr, c_ptr) + tile * N, value, start, num_tokens, TOKENS, N)
