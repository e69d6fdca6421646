# mypy: ignore-errors
# ruff: noqa: RUF005 - Triton compiles no starred expressions
"""Gradients of the preparation, in one pass: rotation, norm, activation, convolution and index, back to token rows.

A program walks some streams of consecutive scan positions side by side, one position of each at a time. What the
convolution and its transpose need of earlier positions stays in registers, so that every row and every gradient is
loaded once, and nothing but the ends of a stream is computed twice. Activations are computed again from the rows.

Token rows that stand once in the sequence are stored directly; those that stand more often (text with two copies,
registers) go to `side_ptr`, one fp32 row per occurrence, and are summed after.
"""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import gather_rows, rotate, sigmoid, store_rows


@triton.jit
def _load_code(source_ptr, position, num_tokens):
    """Row that each stream reads at a position, complemented on padding; see `read_code`."""
    return tl.load(source_ptr + position, mask=(position >= 0) & (position < num_tokens), other=-1)


@triton.jit
def _load_row(
    rows_ptr, register_ptr, code, position, num_tokens, num_rows, row_stride, register_stride,
    WIDTH: tl.constexpr, CONV: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Input rows of the convolution, by their codes; padding is zeroed only where there is a convolution."""
    row = tl.where(code >= 0, code, -code - 1)
    mask = code >= 0 if CONV else position < num_tokens
    return gather_rows(
        rows_ptr, register_ptr, row, mask, num_rows, row_stride, register_stride, tl.arange(0, WIDTH), HAS_REGISTERS
    )


@triton.jit
def _load_gradient(
    grad_ptr, cos_ptr, sin_ptr, position, num_tokens, STREAMS: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr
):
    """Gradient of each stream at a position, turned back."""
    mask = (position < num_tokens)[:, None]
    offsets = position[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if ROTARY:
        offsets = position[:, None] * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :]
        cos = tl.load(cos_ptr + offsets, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + offsets, mask=mask, other=0.0)
        grad = rotate(grad, cos, -sin, STREAMS, WIDTH)
    return grad


@triton.jit
def _load_slot(destination_ptr, position, first, num_tokens):
    """Slot of a position; none before the stream."""
    return tl.load(destination_ptr + position, mask=(position >= first) & (position < num_tokens), other=-1)


@triton.jit
def _store_gradient(
    direct_ptr, side_ptr, value, code, slot, num_rows, num_copies, row_width, WIDTH: tl.constexpr, CONV: tl.constexpr
):
    """Gradient of a row; none where a convolution zeroed padding."""
    if CONV:
        value = tl.where((code >= 0)[:, None], value, 0.0)
    store_rows(direct_ptr, side_ptr, value, slot, tl.arange(0, WIDTH), row_width, num_rows, num_copies)


@triton.jit
def _activation_backward(grad, before, norm, eps, WIDTH: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr):
    """Gradient of what the convolution gave, and what the norm's weight gets here."""
    norm_grad = grad
    if SILU:
        opening = sigmoid(before)
        value = before * opening
    else:
        opening = before
        value = before
    if NORM:
        scale = tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)[:, None]
        norm_grad = grad * value * scale
        grad *= norm
        share = (tl.sum(grad * value, 1) / WIDTH)[:, None] * scale * scale
        grad = (grad - value * share) * scale
    if SILU:
        grad *= opening + value * (1.0 - opening)
    return grad, norm_grad


@triton.jit
def _weighted(weights, tiles, total, WIDTH: tl.constexpr):
    """`total` plus each tile times its weight."""
    for tap in tl.static_range(WIDTH):
        total += weights[tap] * tiles[tap]
    return total


@triton.jit
def _rows_backward(
    rows_ptr, register_ptr, source_ptr, destination_ptr, conv_weight_ptr, conv_bias_ptr, norm_ptr, cos_ptr, sin_ptr,
    grad_ptr, direct_ptr, side_ptr, conv_weight_grad_ptr, conv_bias_grad_ptr, norm_grad_ptr,
    begin, steps, num_tokens, num_rows, num_copies, row_stride, register_stride, row_width, conv_first, eps,
    WIDTH: tl.constexpr, STREAMS: tl.constexpr, GROUP: tl.constexpr, CONV_WIDTH: tl.constexpr, HALO: tl.constexpr,
    SILU: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """One of x, B and C of one head, for the streams of one program.

    HALO is what the convolution reads before a position and its transpose after it: CONV_WIDTH - 1, or 0 without taps.
    """
    CONV: tl.constexpr = CONV_WIDTH > 0
    USES_ROWS: tl.constexpr = CONV or SILU or NORM
    # Codes that are known before their rows are asked for: those of a group, and all that the end of a stream needs.
    NEXT: tl.constexpr = GROUP if GROUP > HALO else HALO
    channel = tl.arange(0, WIDTH)
    conv_channel = conv_first + channel
    first = begin + tl.arange(0, STREAMS) * steps
    zero = tl.zeros([STREAMS, WIDTH], tl.float32)

    weights = ()
    weight_grads = ()
    bias = zero
    for tap in tl.static_range(CONV_WIDTH):
        weights = weights + (tl.load(conv_weight_ptr + conv_channel * CONV_WIDTH + tap).to(tl.float32)[None, :],)
        weight_grads = weight_grads + (zero,)
    if CONV:
        bias += tl.load(conv_bias_ptr + conv_channel).to(tl.float32)[None, :]
    norm = zero
    if NORM:
        norm += tl.load(norm_ptr + channel).to(tl.float32)[None, :]
    bias_grad = zero
    norm_grad = zero

    earlier = ()  # rows at the HALO positions before
    known = ()  # gradients of the convolution's outputs at the HALO positions before, last first
    codes = ()  # of the HALO positions before, and of those whose rows come next
    for tap in tl.static_range(HALO):
        position = first - HALO + tap
        codes = codes + (_load_code(source_ptr, position, num_tokens),)
        row = _load_row(
            rows_ptr, register_ptr, codes[tap], position, num_tokens, num_rows, row_stride, register_stride, WIDTH,
            CONV, HAS_REGISTERS,
        )  # fmt: skip
        earlier = earlier + (row,)
        known = known + (zero,)
    for member in tl.static_range(NEXT):
        codes = codes + (_load_code(source_ptr, first + member, num_tokens),)

    for group in range(steps // GROUP):
        rows = ()
        grads = ()
        slots = ()
        # All loads before the first store, because none may be moved across it; codes one group ahead of their rows.
        for member in tl.static_range(GROUP):
            position = first + group * GROUP + member
            if USES_ROWS:
                row = _load_row(
                    rows_ptr, register_ptr, codes[HALO + member], position, num_tokens, num_rows, row_stride,
                    register_stride, WIDTH, CONV, HAS_REGISTERS,
                )  # fmt: skip
                rows = rows + (row,)
            grad = _load_gradient(grad_ptr, cos_ptr, sin_ptr, position, num_tokens, STREAMS, WIDTH, ROTARY)
            grads = grads + (grad,)
            slots = slots + (_load_slot(destination_ptr, position - HALO, first, num_tokens),)
            codes = codes + (_load_code(source_ptr, position + NEXT, num_tokens),)
        for member in tl.static_range(GROUP):
            grad = grads[member]
            if CONV:
                earlier = earlier + (rows[member],)
            if USES_ROWS:
                before = _weighted(weights, earlier, bias, CONV_WIDTH) if CONV else rows[member]
                grad, here = _activation_backward(grad, before, norm, eps, WIDTH, SILU, NORM)
                if NORM:
                    norm_grad += here
            value = grad
            if CONV:
                known = (grad,) + known
                bias_grad += grad
                sums = ()
                for tap in tl.static_range(CONV_WIDTH):
                    sums = sums + (weight_grads[tap] + grad * earlier[tap],)
                weight_grads = sums
                value = _weighted(weights, known, zero, CONV_WIDTH)
                earlier = earlier[1:]
                known = known[:HALO]
            _store_gradient(
                direct_ptr, side_ptr, value, codes[member], slots[member], num_rows, num_copies, row_width, WIDTH, CONV
            )
        codes = codes[GROUP:]

    # Gradients beyond the stream, for the transposed convolution alone: another stream sums them.
    rows = ()
    grads = ()
    slots = ()
    for member in tl.static_range(HALO):
        position = first + steps + member
        row = _load_row(
            rows_ptr, register_ptr, codes[HALO + member], position, num_tokens, num_rows, row_stride, register_stride,
            WIDTH, CONV, HAS_REGISTERS,
        )  # fmt: skip
        rows = rows + (row,)
        grads = grads + (_load_gradient(grad_ptr, cos_ptr, sin_ptr, position, num_tokens, STREAMS, WIDTH, ROTARY),)
        slots = slots + (_load_slot(destination_ptr, position - HALO, first, num_tokens),)
    for member in tl.static_range(HALO):
        earlier = earlier + (rows[member],)
        before = _weighted(weights, earlier, bias, CONV_WIDTH)
        grad, _ = _activation_backward(grads[member], before, norm, eps, WIDTH, SILU, NORM)
        known = (grad,) + known
        value = _weighted(weights, known, zero, CONV_WIDTH)
        _store_gradient(
            direct_ptr, side_ptr, value, codes[member], slots[member], num_rows, num_copies, row_width, WIDTH, CONV
        )
        earlier = earlier[1:]
        known = known[:HALO]

    if CONV:
        for tap in tl.static_range(CONV_WIDTH):
            tl.store(conv_weight_grad_ptr + conv_channel * CONV_WIDTH + tap, tl.sum(weight_grads[tap], 0))
        tl.store(conv_bias_grad_ptr + conv_channel, tl.sum(bias_grad, 0))
    if NORM:
        tl.store(norm_grad_ptr + channel, tl.sum(norm_grad, 0))


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_copies", "num_side", "steps"])
def rows_backward_kernel(
    rows_ptr, register_ptr, source_ptr, destination_ptr, conv_weight_ptr, conv_bias_ptr, norm_b_ptr, norm_c_ptr,
    cos_ptr, sin_ptr, x_grad_ptr, b_grad_ptr, c_grad_ptr, rows_grad_ptr, side_ptr, conv_weight_grad_ptr,
    conv_bias_grad_ptr, norm_b_grad_ptr, norm_c_grad_ptr,
    num_tokens, num_rows, num_copies, num_side, num_heads, steps, batch_stride, row_stride, register_stride, eps,
    P: tl.constexpr, N: tl.constexpr, STREAMS: tl.constexpr, GROUP: tl.constexpr, CONV_WIDTH: tl.constexpr,
    SILU: tl.constexpr, NORM: tl.constexpr, ROTARY: tl.constexpr, HAS_REGISTERS: tl.constexpr,
):  # fmt: skip
    """From gradients of x, B and C to those of rows; sums for the weights by program.

    Grid: heads of x, of B and of C, so that neighbours read the same rows; spans of STREAMS times `steps` positions;
    batch.
    """
    HALO: tl.constexpr = CONV_WIDTH - 1 if CONV_WIDTH > 0 else 0
    part, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    batch = tl.program_id(2).to(tl.int64)
    begin = tl.program_id(1).to(tl.int64) * (STREAMS * steps)
    program = batch * tl.num_programs(1) + tl.program_id(1)
    tile = (batch * num_heads + head) * num_tokens
    width = num_heads * P
    row_width = 2 * num_heads * (P + N)
    channels = num_heads * (P + 2 * N)
    source_ptr += batch * num_tokens
    destination_ptr += batch * num_tokens
    rows_ptr += batch * batch_stride + width
    register_ptr += width
    rows_grad_ptr += batch * num_rows * row_width + width
    side_ptr += batch * num_side * row_width + width
    conv_weight_grad_ptr += program * channels * CONV_WIDTH
    conv_bias_grad_ptr += program * channels
    if part == 0:
        first = head * P
        _rows_backward(
            rows_ptr + first, register_ptr + first, source_ptr, destination_ptr, conv_weight_ptr, conv_bias_ptr,
            norm_b_ptr, cos_ptr, sin_ptr, x_grad_ptr + tile * P, rows_grad_ptr + first, side_ptr + first,
            conv_weight_grad_ptr, conv_bias_grad_ptr, norm_b_grad_ptr,
            begin, steps, num_tokens, num_rows, num_copies, row_stride, register_stride, row_width, first, eps,
            P, STREAMS, GROUP, CONV_WIDTH, HALO, SILU, False, False, HAS_REGISTERS,
        )  # fmt: skip
    else:
        first = width + ((part - 1) * num_heads + head) * N
        grad_ptr = tl.where(part == 1, b_grad_ptr, c_grad_ptr)
        norm_grad_ptr = tl.where(part == 1, norm_b_grad_ptr, norm_c_grad_ptr)
        _rows_backward(
            rows_ptr + first, register_ptr + first, source_ptr, destination_ptr, conv_weight_ptr, conv_bias_ptr,
            tl.where(part == 1, norm_b_ptr, norm_c_ptr), cos_ptr, sin_ptr, grad_ptr + tile * N, rows_grad_ptr + first,
            side_ptr + first, conv_weight_grad_ptr, conv_bias_grad_ptr,
            norm_grad_ptr + (program * num_heads + head) * N,
            begin, steps, num_tokens, num_rows, num_copies, row_stride, register_stride, row_width, first, eps,
            N, STREAMS, GROUP, CONV_WIDTH, HALO, SILU, NORM, ROTARY, HAS_REGISTERS,
        )  # fmt: skip


@triton.jit
def _collect(
    direct_ptr, side_ptr, register_grad_ptr, kinds_ptr, block, num_rows, num_copies, num_registers, num_batch, width,
    ungated, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    row = tl.arange(0, ROWS).to(tl.int64)
    num_side = 2 * num_copies + num_registers
    text_blocks = tl.cdiv(num_copies, ROWS)
    item = tl.program_id(1)
    if item < text_blocks * num_batch:
        sample = item // text_blocks
        text = item % text_blocks * ROWS + row
        mask = (text < num_copies)[:, None] & inside[None, :]
        first = (sample * num_side + text)[:, None] * width + column[None, :]
        second = (sample * num_side + num_copies + text)[:, None] * width + column[None, :]
        value = tl.load(side_ptr + first, mask=mask, other=0.0) + tl.load(side_ptr + second, mask=mask, other=0.0)
        direct = (sample * num_rows + text)[:, None] * width + column[None, :]
        tl.store(direct_ptr + direct, value.to(direct_ptr.dtype.element_ty), mask=mask)
    else:
        kind = item - text_blocks * num_batch
        used = inside & (column >= ungated)
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for batch in range(num_batch):
            for start in range(0, num_registers, ROWS):
                register = start + row
                is_kind = tl.load(kinds_ptr + register, mask=register < num_registers, other=-1) == kind
                place = (batch * num_side + 2 * num_copies + register)[:, None] * width + column[None, :]
                total += tl.load(side_ptr + place, mask=is_kind[:, None] & used[None, :], other=0.0)
        summed = tl.sum(total, 0).to(register_grad_ptr.dtype.element_ty)
        tl.store(register_grad_ptr + kind.to(tl.int64) * width + column, summed, mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_copies", "num_registers", "num_batch"])
def collect_kernel(
    rows_grad_ptr, side_ptr, register_rows_grad_ptr, dt_grad_ptr, side_dt_ptr, register_dt_grad_ptr, kinds_ptr,
    num_rows, num_copies, num_registers, num_batch, row_width, num_heads, ungated,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum what rows got wherever they stand: both copies of text, all registers of a kind.

    Grid: blocks of columns, those of step sizes last; blocks of text rows of all samples, then kinds of registers. The
    first `ungated` columns of a register are zero, because nobody reads its gate.
    """
    row_blocks = tl.cdiv(row_width, COLUMNS)
    block = tl.program_id(0)
    if block < row_blocks:
        _collect(
            rows_grad_ptr, side_ptr, register_rows_grad_ptr, kinds_ptr, block, num_rows, num_copies, num_registers,
            num_batch, row_width, ungated, ROWS, COLUMNS,
        )  # fmt: skip
    else:
        _collect(
            dt_grad_ptr, side_dt_ptr, register_dt_grad_ptr, kinds_ptr, block - row_blocks, num_rows, num_copies,
            num_registers, num_batch, num_heads, 0, ROWS, COLUMNS,
        )  # fmt: skip


@triton.jit
def _sum_block(partial_ptr, total_ptr, block, num_partials, num_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum a block of columns over the programs, if the block is one of this weight's."""
    if (block >= 0) & (block < tl.cdiv(num_columns, COLUMNS)):
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < num_columns
        row = tl.arange(0, ROWS)
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, num_partials, ROWS):
            offsets = (start + row).to(tl.int64)[:, None] * num_columns + column[None, :]
            mask = (start + row < num_partials)[:, None] & inside[None, :]
            total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
        tl.store(total_ptr + column, tl.sum(total, 0).to(total_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_spans", "num_norms", "num_gates", "num_segments"])
def sum_partials_kernel(
    conv_weight_part_ptr, conv_weight_ptr, conv_bias_part_ptr, conv_bias_ptr, norm_b_part_ptr, norm_b_ptr,
    norm_c_part_ptr, norm_c_ptr, norm_part_ptr, norm_ptr, a_log_part_ptr, a_log_ptr, d_part_ptr, d_ptr,
    dt_bias_part_ptr, dt_bias_ptr, num_spans, num_norms, num_gates, num_segments, channels, num_heads,
    P: tl.constexpr, N: tl.constexpr, CONV_WIDTH: tl.constexpr, NORM: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of all weights: sums over programs, always in one order. Grid: blocks of columns of all weights."""
    block = tl.program_id(0)
    if CONV_WIDTH > 0:
        taps = channels * CONV_WIDTH
        _sum_block(conv_weight_part_ptr, conv_weight_ptr, block, num_spans, taps, ROWS, COLUMNS)
        block -= tl.cdiv(taps, COLUMNS)
        _sum_block(conv_bias_part_ptr, conv_bias_ptr, block, num_spans, channels, ROWS, COLUMNS)
        block -= tl.cdiv(channels, COLUMNS)
    if NORM:
        _sum_block(norm_b_part_ptr, norm_b_ptr, block, num_norms, N, ROWS, COLUMNS)
        block -= tl.cdiv(N, COLUMNS)
        _sum_block(norm_c_part_ptr, norm_c_ptr, block, num_norms, N, ROWS, COLUMNS)
        block -= tl.cdiv(N, COLUMNS)
    _sum_block(norm_part_ptr, norm_ptr, block, num_gates, num_heads * P, ROWS, COLUMNS)
    block -= tl.cdiv(num_heads * P, COLUMNS)
    _sum_block(a_log_part_ptr, a_log_ptr, block, num_segments, num_heads, ROWS, COLUMNS)
    block -= tl.cdiv(num_heads, COLUMNS)
    _sum_block(d_part_ptr, d_ptr, block, num_segments, num_heads, ROWS, COLUMNS)
    block -= tl.cdiv(num_heads, COLUMNS)
    _sum_block(dt_bias_part_ptr, dt_bias_ptr, block, num_segments, num_heads, ROWS, COLUMNS)
