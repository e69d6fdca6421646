# mypy: ignore-errors
# ruff: noqa: RUF005 - the compiler knows tuples by their sum
"""The scan in two passes over segments: states between segments first, then outputs of all segments side by side.

States are kept in fp32 as [N, P] tiles and rounded only as operands of matrix products; log decays are in units of
log 2. A segment is some chunks of CHUNK tokens that one program walks.
"""

import triton
import triton.language as tl

from m4v.ops.scan_section.kernel_parts import (
    advance,
    chunk_outputs,
    decay_between,
    destination_row,
    load_steps,
    load_steps_once,
    load_tile,
    pair_decays,
    product,
    silu,
    store_tile,
)


@triton.jit(do_not_specialize=["num_tokens", "segment_chunks"])
def segment_state_kernel(
    key_ptr, value_ptr, dt_ptr, a_log_ptr, state_ptr, decay_ptr, num_tokens, num_heads, segment_chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, ZOH: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What each segment adds to the state, and its total decay. Grid: segments, heads, batch.

    Forward, keys are B and values x, decayed to the end of the segment. REVERSE, keys are C and values the gradients of
    the outputs, decayed to its beginning: the gradient of the state that enters.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    key_ptr += tile * num_tokens * N
    value_ptr += tile * num_tokens * P
    dt_ptr += tile * num_tokens
    first = segment * segment_chunks
    chunks = tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)
    begin = first.to(tl.int64) * CHUNK

    state = tl.zeros([N, P], tl.float32)
    total = 0.0
    for step in range(chunks):
        start = begin + (chunks - 1 - step if REVERSE else step) * CHUNK
        _, weight, decay, last = load_steps(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        factor = tl.exp2(decay) if REVERSE else weight * decay_between(last, decay)
        key = load_tile(key_ptr, start, num_tokens, CHUNK, N)
        value = load_tile(value_ptr, start, num_tokens, CHUNK, P)
        state = advance(state, key, value, factor, last)
        total += last
    place = tile * tl.num_programs(0) + segment
    tl.store(state_ptr + place * N * P + tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :], state)
    tl.store(decay_ptr + place, total)


@triton.jit(do_not_specialize=["num_segments"])
def state_scan_kernel(
    state_ptr, decay_ptr, edge_ptr, num_segments,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_EDGE: tl.constexpr, REVERSE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Turn what each segment adds, in place, into what reaches it. Grid: batch x heads, blocks of the state.

    Forward: the state that enters each segment, beginning with the edge (the initial state). REVERSE: the gradient of
    the state that leaves each segment, beginning at the other end with that of the final state. AHEAD segments are
    loaded before any is stored, because no load may pass a store.
    """
    tile = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    state_ptr += tile * num_segments * SIZE
    decay_ptr += tile * num_segments
    state = tl.zeros([BLOCK], tl.float32)
    if HAS_EDGE:
        state += tl.load(edge_ptr + tile * SIZE + element).to(tl.float32)
    for first in range(0, num_segments, AHEAD):
        added = ()
        decays = ()
        for step in tl.static_range(AHEAD):
            place = num_segments - 1 - first - step if REVERSE else first + step
            is_there = num_segments - first > step + 0 * element
            added = added + (tl.load(state_ptr + place * SIZE + element, mask=is_there, other=0.0),)
            decays = decays + (tl.load(decay_ptr + place, mask=num_segments - first > step, other=0.0),)
        for step in tl.static_range(AHEAD):
            place = num_segments - 1 - first - step if REVERSE else first + step
            mask = num_segments - first > step + 0 * element
            tl.store(state_ptr + place * SIZE + element, state, mask=mask)
            state = tl.exp2(decays[step]) * state + added[step]


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_copies", "segment_chunks"])
def scan_kernel(
    rows_ptr, destination_ptr, x_ptr, b_ptr, c_ptr, dt_ptr, a_log_ptr, d_ptr, norm_ptr, enter_ptr, out_ptr, final_ptr,
    num_tokens, num_rows, num_copies, num_heads, segment_chunks, batch_stride, row_stride, eps,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, ZOH: tl.constexpr, HAS_ENTER: tl.constexpr,
    GATE: tl.constexpr, DESCRIPTORS: tl.constexpr = False, STAGES: tl.constexpr = None,
):  # fmt: skip
    """Outputs of a segment, gated, normalised and stored at their token rows. Grid: segments, heads, batch.

    Second copies of text rows follow the token rows of the whole batch. The last segment leaves the final state.
    Without GATE, plain outputs in scan order, which the backward pass computes again. With DESCRIPTORS, x, B and C come
    as tensor descriptors over [batch x head x token, channel]; a tile then runs on into the next head, whose tokens
    have no step here. With STAGES, all loads of so many chunks are in flight, those of z too.
    """
    segment = tl.program_id(0)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile = batch * num_heads + head
    A = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    D = tl.load(d_ptr + head).to(tl.float32)
    if not DESCRIPTORS:
        x_ptr += tile * num_tokens * P
        b_ptr += tile * num_tokens * N
        c_ptr += tile * num_tokens * N
    base = (tile * num_tokens).to(tl.int32)
    dt_ptr += tile * num_tokens
    destination_ptr += batch * num_tokens
    width = num_heads * P
    channel = tl.arange(0, P)
    rows_ptr += batch * batch_stride + head * P
    out_ptr += head * P if GATE else tile * num_tokens * P
    first_row = batch * num_rows
    first_copy = tl.num_programs(2).to(tl.int64) * num_rows + batch * num_copies - num_rows
    norm = tl.load(norm_ptr + head * P + channel).to(tl.float32)
    state_offsets = tl.arange(0, N)[:, None] * P + channel[None, :]
    state = tl.zeros([N, P], tl.float32)
    if HAS_ENTER:
        state += tl.load(enter_ptr + (tile * tl.num_programs(0) + segment) * N * P + state_offsets)
    token = tl.arange(0, CHUNK)
    first = segment * segment_chunks
    begin = first.to(tl.int64) * CHUNK
    chunks = tl.minimum(segment_chunks, tl.cdiv(num_tokens, CHUNK) - first)
    for step in tl.range(chunks, num_stages=STAGES):
        start = begin + step * CHUNK
        if GATE:
            slot, row, is_token = destination_row(destination_ptr, start + token, num_tokens, num_rows, num_copies)
            z = tl.load(
                rows_ptr + row.to(tl.int64)[:, None] * row_stride + channel[None, :], mask=is_token[:, None], other=0.0
            )
        weight, decay, last = load_steps_once(dt_ptr, A, start, num_tokens, CHUNK, ZOH)
        if DESCRIPTORS:
            place = base + start.to(tl.int32)
            x, B, C = x_ptr.load([place, 0]), b_ptr.load([place, 0]), c_ptr.load([place, 0])
        else:
            x = load_tile(x_ptr, start, num_tokens, CHUNK, P)
            B = load_tile(b_ptr, start, num_tokens, CHUNK, N)
            C = load_tile(c_ptr, start, num_tokens, CHUNK, N)
        # The state goes first: what it needs of x is then out of the registers when the pairs come.
        entering = state.to(C.dtype)
        factor = weight * decay_between(last, decay)
        if DESCRIPTORS:  # a product takes keys from registers; values would go through shared memory once more
            key = (tl.trans(B).to(tl.float32) * factor[None, :]).to(B.dtype)
            state = product(key, x, state * tl.exp2(last))
            # The skip joins the pairs of a token with itself, which spares registers for x.
            scores = product(C, tl.trans(B)) * pair_decays(decay, CHUNK, False) * weight[None, :]
            scores += tl.where(token[:, None] == token[None, :], D, 0.0)
            y = product(scores.to(x.dtype), x, product(C, entering) * tl.exp2(decay)[:, None])
        else:
            state = advance(state, B, x, factor, last)
            y = chunk_outputs(x, B, C, entering, weight, decay, D, CHUNK)

        if GATE:
            gated = y * silu(z.to(tl.float32))
            normed = gated * tl.rsqrt(tl.sum(gated * gated, 1) / P + eps)[:, None] * norm[None, :]
            out_row = slot + tl.where(slot < num_rows, first_row, first_copy)
            offsets = out_row[:, None] * width + channel[None, :]
            tl.store(out_ptr + offsets, normed.to(out_ptr.dtype.element_ty), mask=is_token[:, None])
        else:
            store_tile(out_ptr, y, start, num_tokens, CHUNK, P)
    if GATE and segment == tl.num_programs(0) - 1:
        tl.store(final_ptr + tile * N * P + state_offsets, state)
