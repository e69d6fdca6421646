# mypy: ignore-errors
"""Gradients of the preparation: back through rotation, norm and activation, then through convolution and index.

Activations are computed again from the rows. Token rows that stand once in the sequence are stored directly; those that
stand more often (text with two copies, registers) go to `side_ptr`, one fp32 row per occurrence, and are summed after.
"""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import (
    convolve,
    gather_rows,
    gather_tap,
    load_tile,
    load_tokens,
    read_code,
    rotate,
    store_rows,
    store_tile,
)


@triton.jit
def _activation_backward(
    rows_ptr, register_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_ptr, cos_ptr, sin_ptr, grad_ptr,
    conv_weight_grad_ptr, conv_bias_grad_ptr, norm_grad_ptr, begin, span, num_tokens, num_rows, row_stride,
    register_stride, conv_first, eps,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, CONV_WIDTH: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """One of x, B and C of one head, for the tokens of one program; gradients are replaced in place."""
    channel = tl.arange(0, WIDTH)
    conv_channel = conv_first + channel
    tap_number = tl.arange(0, TAPS)
    weight_grad = tl.zeros([TAPS, WIDTH], tl.float32)
    bias_grad = tl.zeros([WIDTH], tl.float32)
    norm_grad = tl.zeros([WIDTH], tl.float32)
    token = tl.arange(0, TOKENS)
    for step in range(tl.cdiv(span, TOKENS)):
        start = begin + step * TOKENS
        position = start + token
        grad = load_tile(grad_ptr, start, num_tokens, TOKENS, WIDTH).to(tl.float32)
        if ROTARY:
            offsets = position[:, None] * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :]
            mask = (token < num_tokens - start)[:, None]
            cos = tl.load(cos_ptr + offsets, mask=mask, other=0.0)
            sin = tl.load(sin_ptr + offsets, mask=mask, other=0.0)
            grad = rotate(grad, cos, -sin, TOKENS, WIDTH)
        if SILU or NORM:
            before = convolve(
                rows_ptr, register_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, position, num_tokens, num_rows,
                row_stride, register_stride, channel, conv_channel, CONV_WIDTH, HAS_REGISTERS,
            )  # fmt: skip
            opening = tl.sigmoid(before)
            value = before * opening if SILU else before
            if NORM:
                scale = tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)[:, None]
                norm_grad += tl.sum(grad * value * scale, 0)
                grad *= tl.load(norm_ptr + channel).to(tl.float32)[None, :]
                share = (tl.sum(grad * value, 1) / WIDTH)[:, None] * scale * scale
                grad = (grad - value * share) * scale
            if SILU:
                grad *= opening * (1.0 + before * (1.0 - opening))
        if SILU or NORM or ROTARY:
            tl.debug_barrier()  # in place: nobody may still be reading
            store_tile(grad_ptr, grad, start, num_tokens, TOKENS, WIDTH)
        if CONV_WIDTH > 0:
            bias_grad += tl.sum(grad, 0)
            for tap in tl.static_range(CONV_WIDTH):
                row = gather_tap(
                    rows_ptr, register_ptr, source_ptr, position - (CONV_WIDTH - 1) + tap, num_tokens, num_rows,
                    row_stride, register_stride, channel, True, HAS_REGISTERS,
                )  # fmt: skip
                weight_grad += tl.where((tap_number == tap)[:, None], tl.sum(grad * row, 0)[None, :], 0.0)
    if CONV_WIDTH > 0:
        tl.store(conv_bias_grad_ptr + conv_channel, bias_grad)
        tl.store(
            conv_weight_grad_ptr + conv_channel[None, :] * CONV_WIDTH + tap_number[:, None], weight_grad,
            mask=(tap_number < CONV_WIDTH)[:, None],
        )  # fmt: skip
    if NORM:
        tl.store(norm_grad_ptr + channel, norm_grad)


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "span"])
def activation_backward_kernel(
    rows_ptr, register_ptr, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_b_ptr, norm_c_ptr, cos_ptr, sin_ptr,
    x_grad_ptr, b_grad_ptr, c_grad_ptr, conv_weight_grad_ptr, conv_bias_grad_ptr, norm_b_grad_ptr, norm_c_grad_ptr,
    num_tokens, num_rows, num_heads, span, batch_stride, row_stride, register_stride, eps,
    P: tl.constexpr, N: tl.constexpr, TOKENS: tl.constexpr, CONV_WIDTH: tl.constexpr, TAPS: tl.constexpr,
    SILU: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Turns gradients of x, B and C into those of the convolution's outputs.

    Grid: spans of tokens, three times heads (x, B and C side by side), batch.
    """
    part, head, batch = tl.program_id(1) % 3, tl.program_id(1) // 3, tl.program_id(2).to(tl.int64)
    begin = tl.program_id(0).to(tl.int64) * span
    span = tl.minimum(span, num_tokens - begin)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tile = (batch * num_heads + head) * num_tokens
    source_ptr += batch * num_tokens
    rows_ptr += batch * batch_stride + num_heads * P
    register_ptr += num_heads * P
    channels = num_heads * (P + 2 * N)
    conv_weight_grad_ptr += program * channels * CONV_WIDTH
    conv_bias_grad_ptr += program * channels
    norm_b_grad_ptr += (program * num_heads + head) * N
    norm_c_grad_ptr += (program * num_heads + head) * N
    if part == 0:
        first = head * P
        _activation_backward(
            rows_ptr + first, register_ptr + first, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_b_ptr, cos_ptr,
            sin_ptr, x_grad_ptr + tile * P, conv_weight_grad_ptr, conv_bias_grad_ptr, norm_b_grad_ptr, begin, span,
            num_tokens, num_rows, row_stride, register_stride, first, eps,
            P, TOKENS, CONV_WIDTH, TAPS, SILU, False, False, HAS_REGISTERS,
        )  # fmt: skip
    elif part == 1:
        first = num_heads * P + head * N
        _activation_backward(
            rows_ptr + first, register_ptr + first, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_b_ptr, cos_ptr,
            sin_ptr, b_grad_ptr + tile * N, conv_weight_grad_ptr, conv_bias_grad_ptr, norm_b_grad_ptr, begin, span,
            num_tokens, num_rows, row_stride, register_stride, first, eps,
            N, TOKENS, CONV_WIDTH, TAPS, SILU, NORM, ROTARY, HAS_REGISTERS,
        )  # fmt: skip
    else:
        first = num_heads * (P + N) + head * N
        _activation_backward(
            rows_ptr + first, register_ptr + first, source_ptr, conv_weight_ptr, conv_bias_ptr, norm_c_ptr, cos_ptr,
            sin_ptr, c_grad_ptr + tile * N, conv_weight_grad_ptr, conv_bias_grad_ptr, norm_c_grad_ptr, begin, span,
            num_tokens, num_rows, row_stride, register_stride, first, eps,
            N, TOKENS, CONV_WIDTH, TAPS, SILU, NORM, ROTARY, HAS_REGISTERS,
        )  # fmt: skip


@triton.jit
def _scatter_part(
    grad_ptr, conv_weight_ptr, direct_ptr, side_ptr, slot, is_real, start, num_tokens, num_rows, num_copies, row_width,
    conv_first, WIDTH: tl.constexpr, TOKENS: tl.constexpr, CONV_WIDTH: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, WIDTH)
    if CONV_WIDTH == 0:
        value = load_tile(grad_ptr, start, num_tokens, TOKENS, WIDTH).to(tl.float32)
    else:
        value = tl.zeros([TOKENS, WIDTH], tl.float32)
        for tap in tl.static_range(CONV_WIDTH):
            weight = tl.load(conv_weight_ptr + (conv_first + channel) * CONV_WIDTH + tap).to(tl.float32)
            later = load_tile(grad_ptr, start + CONV_WIDTH - 1 - tap, num_tokens, TOKENS, WIDTH)
            value += later.to(tl.float32) * weight[None, :]
        value = tl.where(is_real[:, None], value, 0.0)
    store_rows(direct_ptr, side_ptr, value, slot, channel, row_width, num_rows, num_copies)


@triton.jit(
    do_not_specialize=[
        "num_tokens",
        "num_rows",
        "num_copies",
        "num_side",
        "dt_batch_stride",
        "dt_row_stride",
        "register_dt_stride",
    ]
)
def scatter_rows_kernel(
    x_grad_ptr, b_grad_ptr, c_grad_ptr, dt_grad_ptr, dt_raw_ptr, register_dt_ptr, dt_bias_ptr, source_ptr,
    destination_ptr, conv_weight_ptr, rows_grad_ptr, side_ptr, dt_raw_grad_ptr, side_dt_ptr, dt_bias_grad_ptr,
    num_tokens, num_rows, num_copies, num_side, num_heads, row_width, dt_batch_stride, dt_row_stride,
    register_dt_stride,
    P: tl.constexpr, N: tl.constexpr, TOKENS: tl.constexpr, CONV_WIDTH: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Transposed convolution, softplus backward, and back to token order. Grid: blocks of tokens, heads, batch."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * TOKENS
    position = start + tl.arange(0, TOKENS)
    tile = (batch * num_heads + head) * num_tokens
    row, is_real, inside = read_code(source_ptr + batch * num_tokens, position, num_tokens)
    slot = tl.load(destination_ptr + batch * num_tokens + position, mask=inside, other=-1)
    width = num_heads * P
    direct = batch * num_rows
    side = batch * num_side

    first = head * P
    _scatter_part(
        x_grad_ptr + tile * P, conv_weight_ptr, rows_grad_ptr + direct * row_width + width + first,
        side_ptr + side * row_width + width + first, slot, is_real, start, num_tokens, num_rows, num_copies, row_width,
        first, P, TOKENS, CONV_WIDTH,
    )  # fmt: skip
    first = width + head * N
    _scatter_part(
        b_grad_ptr + tile * N, conv_weight_ptr, rows_grad_ptr + direct * row_width + width + first,
        side_ptr + side * row_width + width + first, slot, is_real, start, num_tokens, num_rows, num_copies, row_width,
        first, N, TOKENS, CONV_WIDTH,
    )  # fmt: skip
    first += num_heads * N
    _scatter_part(
        c_grad_ptr + tile * N, conv_weight_ptr, rows_grad_ptr + direct * row_width + width + first,
        side_ptr + side * row_width + width + first, slot, is_real, start, num_tokens, num_rows, num_copies, row_width,
        first, N, TOKENS, CONV_WIDTH,
    )  # fmt: skip

    only = tl.arange(0, 1)
    raw = gather_rows(
        dt_raw_ptr + batch * dt_batch_stride + head, register_dt_ptr + head, row, is_real, num_rows, dt_row_stride,
        register_dt_stride, only, HAS_REGISTERS,
    )  # fmt: skip
    slope = tl.sigmoid(raw + tl.load(dt_bias_ptr + head).to(tl.float32))
    grad = load_tokens(dt_grad_ptr + tile, start, num_tokens, TOKENS)[:, None] * slope
    grad = tl.where(is_real[:, None], grad, 0.0)
    store_rows(
        dt_raw_grad_ptr + direct * num_heads + head, side_dt_ptr + side * num_heads + head, grad, slot, only,
        num_heads, num_rows, num_copies,
    )  # fmt: skip
    place = (batch * tl.num_programs(0) + tl.program_id(0)) * num_heads + head
    tl.store(dt_bias_grad_ptr + place, tl.sum(tl.sum(grad, 1), 0))
