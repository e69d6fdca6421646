# mypy: ignore-errors
"""Gradients of the scan: one kernel walks each segment forward carrying the state, two in reverse with its gradient.

With g the gradient of y, w the input weight, and M_ts the decay between two tokens of a chunk, the pair (t, s) gives
E_ts = M_ts w_s (C_t . B_s)(g_t . x_s) to the log decay of every step between them. One kernel per operand, because
together they would not fit in registers. Nothing of the forward pass is kept but the states that enter segments.
"""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import (
    advance,
    decay_between,
    destination_row,
    input_weight_slopes,
    load_steps,
    load_tile,
    load_tokens,
    pair_decays,
    product,
    sigmoid,
    store_rows,
    store_tile,
)


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_copies", "num_side", "blocks"])
def gate_backward_kernel(
    rows_ptr, mixed_grad_ptr, destination_ptr, y_ptr, norm_ptr, rows_grad_ptr, side_ptr, norm_grad_ptr,
    num_tokens, num_rows, num_copies, num_side, num_heads, blocks, batch_stride, row_stride, row_width, eps,
    P: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Back through output norm and gate; replaces outputs y by their gradients.

    Grid: heads, so that neighbours read the same rows; spans of TOKENS times `blocks` tokens; batch. Gradients of z go
    to their token rows, those of rows that stand twice to `side_ptr` in fp32.
    """
    head, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    width = num_heads * P
    channel = tl.arange(0, P)
    y_ptr += tile * num_tokens * P
    destination_ptr += batch * num_tokens
    rows_ptr += batch * batch_stride + head * P
    mixed_grad_ptr += batch * num_rows * width + head * P
    rows_grad_ptr += batch * num_rows * row_width + head * P
    side_ptr += batch * num_side * row_width + head * P
    norm = tl.load(norm_ptr + head * P + channel).to(tl.float32)[None, :]
    norm_grad = tl.zeros([TOKENS, P], tl.float32)
    begin = tl.program_id(1).to(tl.int64) * (TOKENS * blocks)
    for block in range(blocks):
        start = begin + block * TOKENS
        position = start + tl.arange(0, TOKENS)
        slot, row, is_token = destination_row(destination_ptr, position, num_tokens, num_rows, num_copies)
        row = row.to(tl.int64)[:, None]
        mask = is_token[:, None]
        z = tl.load(rows_ptr + row * row_stride + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(mixed_grad_ptr + row * width + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        y = load_tile(y_ptr, start, num_tokens, TOKENS, P).to(tl.float32)

        opening = sigmoid(z)
        gated = y * (z * opening)
        scale = tl.rsqrt(tl.sum(gated * gated, 1) / P + eps)[:, None]
        norm_grad += grad * gated * scale
        grad *= norm
        share = (tl.sum(grad * gated, 1) / P)[:, None] * scale * scale
        grad = (grad - gated * share) * scale
        tl.debug_barrier()  # in place: nobody may still be reading
        store_tile(y_ptr, grad * (z * opening), start, num_tokens, TOKENS, P)
        z_grad = grad * y * (opening * (1.0 + z * (1.0 - opening)))
        store_rows(
            rows_grad_ptr, side_ptr, z_grad, tl.where(is_token, slot, -1), channel, row_width, num_rows, num_copies
        )
    place = (batch * tl.num_programs(1) + tl.program_id(1)) * num_heads + head
    tl.store(norm_grad_ptr + place * P + channel, tl.sum(norm_grad, 0))


@triton.jit(do_not_specialize=["num_tokens", "segment_chunks"])
def output_vector_kernel(
    g_ptr, x_ptr, b_ptr, c_ptr, dt_ptr, a_log_ptr, enter_ptr, c_grad_ptr, reach_ptr,
    num_tokens, num_heads, segment_chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, ZOH: tl.constexpr, HAS_ENTER: tl.constexpr,
):  # fmt: skip
    """Gradients of C, walking forward. Grid: segments, heads, batch.

    `reach_ptr` gets what each token gives to the log decay of every step of its chunk up to itself, by reading the
    state that enters the chunk.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    x_ptr += tile * num_tokens * P
    g_ptr += tile * num_tokens * P
    b_ptr += tile * num_tokens * N
    c_ptr += tile * num_tokens * N
    c_grad_ptr += tile * num_tokens * N
    dt_ptr += tile * num_tokens
    reach_ptr += tile * num_tokens
    state = tl.zeros([N, P], tl.float32)
    if HAS_ENTER:
        enter_ptr += (tile * tl.num_programs(0) + segment) * N * P
        state += tl.load(enter_ptr + tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :])
    token = tl.arange(0, CHUNK)
    first = segment * segment_chunks
    begin = first.to(tl.int64) * CHUNK
    for step in range(tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)):
        start = begin + step * CHUNK
        _, weight, decay, last = load_steps(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        x = load_tile(x_ptr, start, num_tokens, CHUNK, P)
        g = load_tile(g_ptr, start, num_tokens, CHUNK, P)
        B = load_tile(b_ptr, start, num_tokens, CHUNK, N)
        C = load_tile(c_ptr, start, num_tokens, CHUNK, N)
        entering = state.to(C.dtype)
        state = advance(state, B, x, weight * decay_between(last, decay), last)
        products = product(g, tl.trans(x)) * pair_decays(decay, CHUNK, False) * weight[None, :]
        grad = product(g, tl.trans(entering)) * tl.exp2(decay)[:, None]
        reach = tl.sum(C.to(tl.float32) * grad, 1)
        tl.store(reach_ptr + start + token, reach, mask=token < num_tokens - start)
        grad = product(products.to(B.dtype), B, grad)
        store_tile(c_grad_ptr, grad, start, num_tokens, CHUNK, N)


@triton.jit(do_not_specialize=["num_tokens", "segment_chunks"])
def value_kernel(
    g_ptr, b_ptr, c_ptr, dt_ptr, a_log_ptr, d_ptr, leave_ptr, x_grad_ptr, edge_grad_ptr,
    num_tokens, num_heads, segment_chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, ZOH: tl.constexpr, HAS_LEAVE: tl.constexpr,
):  # fmt: skip
    """Gradients of x, walking in reverse. Grid: segments, heads, batch.

    `leave_ptr` has the gradient of the state that leaves each segment; the first segment leaves that of the initial
    state. Tiles of pairs are [earlier token, later token] from here on.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    D = tl.load(d_ptr + head).to(tl.float32)
    g_ptr += tile * num_tokens * P
    x_grad_ptr += tile * num_tokens * P
    b_ptr += tile * num_tokens * N
    c_ptr += tile * num_tokens * N
    dt_ptr += tile * num_tokens
    offsets = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    state_grad = tl.zeros([N, P], tl.float32)
    if HAS_LEAVE:
        state_grad += tl.load(leave_ptr + (tile * tl.num_programs(0) + segment) * N * P + offsets)
    first = segment * segment_chunks
    begin = first.to(tl.int64) * CHUNK
    chunks = tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)
    for step in range(chunks):
        start = begin + (chunks - 1 - step) * CHUNK
        _, weight, decay, last = load_steps(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        g = load_tile(g_ptr, start, num_tokens, CHUNK, P)
        B = load_tile(b_ptr, start, num_tokens, CHUNK, N)
        C = load_tile(c_ptr, start, num_tokens, CHUNK, N)
        leaving = state_grad.to(B.dtype)
        state_grad = advance(state_grad, C, g, tl.exp2(decay), last)
        scores = product(B, tl.trans(C)) * pair_decays(decay, CHUNK, True)
        grad = product(B, leaving) * decay_between(last, decay)[:, None]
        grad = product(scores.to(g.dtype), g, grad) * weight[:, None]
        store_tile(x_grad_ptr, grad + D * g.to(tl.float32), start, num_tokens, CHUNK, P)
    if segment == 0:
        tl.store(edge_grad_ptr + tile * N * P + offsets, state_grad)


@triton.jit(do_not_specialize=["num_tokens", "segment_chunks"])
def input_vector_kernel(
    g_ptr, x_ptr, b_ptr, c_ptr, dt_ptr, a_log_ptr, enter_ptr, final_ptr, leave_ptr,
    b_grad_ptr, weight_grad_ptr, ended_ptr, begun_ptr, crossing_ptr, d_grad_ptr, num_tokens, num_heads, segment_chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, ZOH: tl.constexpr, HAS_LEAVE: tl.constexpr,
):  # fmt: skip
    """Gradients of B and, per program, D, walking in reverse. Grid: segments, heads, batch.

    `enter_ptr` has the state that enters each segment, `final_ptr` the one that leaves the last. For
    `step_size_kernel` it leaves, by token, the gradient of the input weight, what pairs end and what states begin
    there; and by segment what crosses its end, <state, its gradient>.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    place = tile * tl.num_programs(0) + segment
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    x_ptr += tile * num_tokens * P
    g_ptr += tile * num_tokens * P
    b_ptr += tile * num_tokens * N
    c_ptr += tile * num_tokens * N
    b_grad_ptr += tile * num_tokens * N
    dt_ptr += tile * num_tokens
    weight_grad_ptr += tile * num_tokens
    ended_ptr += tile * num_tokens
    begun_ptr += tile * num_tokens
    state_grad = tl.zeros([N, P], tl.float32)
    crossing = 0.0
    if HAS_LEAVE:
        offsets = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
        state_grad += tl.load(leave_ptr + place * N * P + offsets)
        if segment == tl.num_programs(0) - 1:
            state = tl.load(final_ptr + tile * N * P + offsets)
        else:
            state = tl.load(enter_ptr + (place + 1) * N * P + offsets)
        crossing += tl.sum(tl.sum(state_grad * state, 1), 0)
    tl.store(crossing_ptr + place, crossing)
    token = tl.arange(0, CHUNK)
    d_grad = tl.zeros([CHUNK], tl.float32)
    first = segment * segment_chunks
    begin = first.to(tl.int64) * CHUNK
    chunks = tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)
    for step in range(chunks):
        start = begin + (chunks - 1 - step) * CHUNK
        _, weight, decay, last = load_steps(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        x = load_tile(x_ptr, start, num_tokens, CHUNK, P)
        g = load_tile(g_ptr, start, num_tokens, CHUNK, P)
        B = load_tile(b_ptr, start, num_tokens, CHUNK, N)
        C = load_tile(c_ptr, start, num_tokens, CHUNK, N)
        leaving = state_grad.to(B.dtype)
        state_grad = advance(state_grad, C, g, tl.exp2(decay), last)

        products = product(x, tl.trans(g))
        d_grad += tl.sum(tl.where(token[:, None] == token[None, :], products, 0.0), 1)
        products *= pair_decays(decay, CHUNK, True)
        both = product(B, tl.trans(C)) * products
        weight_grad = tl.sum(both, 1)
        # A step is charged for the pairs around it: those that end at or after it less those that begin there too. A
        # token paired with itself has no step between; left in, it would drown the others.
        both = tl.where(token[:, None] < token[None, :], both * weight[:, None], 0.0)
        mask = token < num_tokens - start
        tl.store(ended_ptr + start + token, tl.sum(both, 0) - tl.sum(both, 1), mask=mask)

        grad = product(x, tl.trans(leaving)) * decay_between(last, decay)[:, None]
        beyond = tl.sum(B.to(tl.float32) * grad, 1)
        grad = product(products.to(C.dtype), C, grad) * weight[:, None]
        store_tile(b_grad_ptr, grad, start, num_tokens, CHUNK, N)
        tl.store(weight_grad_ptr + start + token, weight_grad + beyond, mask=mask)
        tl.store(begun_ptr + start + token, beyond * weight, mask=mask)
    tl.store(d_grad_ptr + (batch * tl.num_programs(0) + segment) * num_heads + head, tl.sum(d_grad, 0))


@triton.jit
def _softplus_slope(step):
    """Derivative of softplus by its argument, 1 - e^-step, from its value; a series where the difference cancels."""
    series = step * (1.0 - step * (1 / 2 - step * (1 / 6 - step * (1 / 24 - step / 120))))
    return tl.where(step > 0.1, 1.0 - tl.exp(-step), series)


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_copies", "num_side", "segment_chunks"])
def step_size_kernel(
    dt_ptr, reach_ptr, weight_grad_ptr, ended_ptr, begun_ptr, crossing_ptr, a_log_ptr, destination_ptr,
    dt_grad_ptr, side_dt_ptr, a_log_grad_ptr, dt_bias_grad_ptr,
    num_tokens, num_rows, num_copies, num_side, num_heads, segment_chunks, CHUNK: tl.constexpr, ZOH: tl.constexpr,
):  # fmt: skip
    """Gradients of step sizes before softplus and, per program, of their bias and A_log. Grid: segments, heads, batch.

    Apart from `input_vector_kernel` because sums along a chunk are quick for a warp of their own. Gradients go to their
    token rows, those of rows that stand twice to `side_dt_ptr`.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    dt_ptr += tile * num_tokens
    reach_ptr += tile * num_tokens
    weight_grad_ptr += tile * num_tokens
    ended_ptr += tile * num_tokens
    begun_ptr += tile * num_tokens
    destination_ptr += batch * num_tokens
    dt_grad_ptr += batch * num_rows * num_heads + head
    side_dt_ptr += batch * num_side * num_heads + head
    # What a step at this very place changes through the state. Known where a segment ends, and carried from chunk to
    # chunk by what begins and ends in them.
    crossing = tl.load(crossing_ptr + tile * tl.num_programs(0) + segment)
    token = tl.arange(0, CHUNK)
    a_grad = tl.zeros([CHUNK], tl.float32)
    dt_bias_grad = tl.zeros([CHUNK], tl.float32)
    first = segment * segment_chunks
    begin = first.to(tl.int64) * CHUNK
    chunks = tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)
    for step in range(chunks):
        start = begin + (chunks - 1 - step) * CHUNK
        dt, weight, _, last = load_steps(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        weight_grad = load_tokens(weight_grad_ptr, start, num_tokens, CHUNK)
        reach = load_tokens(reach_ptr, start, num_tokens, CHUNK)
        ended = load_tokens(ended_ptr, start, num_tokens, CHUNK) + reach
        begun = load_tokens(begun_ptr, start, num_tokens, CHUNK)
        slot = tl.load(destination_ptr + start + token, mask=token < num_tokens - start, other=-1)
        crossing = tl.where(last < -40.0, 0.0, crossing - tl.sum(begun, 0))
        rate_grad = tl.cumsum(ended, 0, reverse=True) + tl.cumsum(begun, 0) - begun + crossing
        crossing += tl.sum(reach, 0)
        by_dt, by_a = input_weight_slopes(dt, A, weight, ZOH)
        a_grad += dt * rate_grad + weight_grad * by_a
        dt_grad = (weight_grad * by_dt + A * rate_grad) * _softplus_slope(dt)
        dt_bias_grad += dt_grad
        only = tl.arange(0, 1)
        store_rows(dt_grad_ptr, side_dt_ptr, dt_grad[:, None], slot, only, num_heads, num_rows, num_copies)
    sums = (batch * tl.num_programs(0) + segment) * num_heads + head
    tl.store(a_log_grad_ptr + sums, tl.sum(a_grad, 0) * A)
    tl.store(dt_bias_grad_ptr + sums, tl.sum(dt_bias_grad, 0))
