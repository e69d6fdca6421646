# mypy: ignore-errors
"""Attention over time in two or three passes: scores over blocks of positions, weights, weighted values.

Rows are cells, time after time: cell = time * positions + position. A tile is one position of one head at all times,
[TIMES, P], so that queries, keys and values are read where the projections leave them, and nothing is permuted. Scores
are [pitch, pitch] in fp32, `pitch` being the number of times rounded up to 16; tiles are as wide as the next power of
two. Partial scores of a block of positions are stored and added in a fixed order, so that results repeat.
"""

import triton
import triton.language as tl

_UNSPECIALISED = ["num_times", "num_positions", "span", "num_blocks"]


@triton.jit
def product(left, right, total=None):
    """Matrix product plus `total`, in fp32; fp32 operands in three TF32 products, which lose next to nothing."""
    return tl.dot(left, right, total, input_precision="tf32x3")


@triton.jit
def tile_offsets(first, num_positions, row_stride, TIMES: tl.constexpr, P: tl.constexpr):
    """Places of one head's channels at position `first` of every time."""
    rows = first + tl.arange(0, TIMES).to(tl.int64) * num_positions
    return rows[:, None] * row_stride + tl.arange(0, P)[None, :]


@triton.jit
def head_norm(tile, weight, eps, P: tl.constexpr):
    """RMSNorm over the channels of each row, in fp32."""
    wide = tile.to(tl.float32)
    return wide * tl.rsqrt(tl.sum(wide * wide, 1) / P + eps)[:, None] * weight[None, :]


@triton.jit(do_not_specialize=_UNSPECIALISED)
def scores_kernel(
    query_ptr, key_ptr, query_norm_ptr, key_norm_ptr, score_ptr, num_times, num_positions, span, pitch,
    query_batch_stride, query_row_stride, query_head_stride, key_batch_stride, key_row_stride, key_head_stride, eps,
    TIMES: tl.constexpr, P: tl.constexpr, NORM: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a block of positions adds to the scores. Grid: heads, blocks of `span` positions, batch.

    Heads come first: those of one row lie side by side, and are read at about the same time.
    """
    head, block, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = block * span
    channel = tl.arange(0, P)
    time = tl.arange(0, TIMES)
    is_time = (time < num_times)[:, None] & (channel >= 0)[None, :]
    query_ptr += batch * query_batch_stride + head.to(tl.int64) * query_head_stride
    key_ptr += batch * key_batch_stride + head.to(tl.int64) * key_head_stride
    queries = query_ptr + tile_offsets(first, num_positions, query_row_stride, TIMES, P)
    keys = key_ptr + tile_offsets(first, num_positions, key_row_stride, TIMES, P)
    if NORM:
        query_weight = tl.load(query_norm_ptr + channel).to(tl.float32)
        key_weight = tl.load(key_norm_ptr + channel).to(tl.float32)
    scores = tl.zeros([TIMES, TIMES], tl.float32)
    for _ in tl.range(tl.minimum(span, num_positions - first), num_stages=STAGES):
        query = tl.load(queries, mask=is_time, other=0.0)
        key = tl.load(keys, mask=is_time, other=0.0)
        if NORM:
            query = head_norm(query, query_weight, eps, P)
            key = head_norm(key, key_weight, eps, P)
        scores = product(query.to(TILE), tl.trans(key.to(TILE)), scores)
        queries += query_row_stride
        keys += key_row_stride
    place = (batch * tl.num_programs(0) + head) * tl.num_programs(1) + block
    offsets = time[:, None] * pitch + time[None, :]
    mask = (time < pitch)[:, None] & (time < pitch)[None, :]
    tl.store(score_ptr + place * pitch * pitch + offsets, scores, mask=mask)


@triton.jit
def time_weights(
    score_ptr, visible_ptr, first, num_times, pitch, num_blocks, scale,
    ROWS: tl.constexpr, TIMES: tl.constexpr, MASKED: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Softmax of ROWS rows of the summed scores; rows beyond the last time hold anything finite, columns zeros."""
    row, column, part = first + tl.arange(0, ROWS), tl.arange(0, TIMES), tl.arange(0, AHEAD)
    offsets = row[:, None] * pitch + column[None, :]
    is_stored = (row < pitch)[:, None] & (column < pitch)[None, :]
    scores = tl.zeros([ROWS, TIMES], tl.float32)
    for block in range(0, num_blocks, AHEAD):
        places = (block + part)[:, None, None] * pitch * pitch + offsets[None, :, :]
        mask = (part < num_blocks - block)[:, None, None] & is_stored[None, :, :]
        scores += tl.sum(tl.load(score_ptr + places, mask=mask, other=0.0), 0)
    is_seen = (column < num_times)[None, :] & (row >= 0)[:, None]
    if MASKED:
        both = (row < num_times)[:, None] & (column < num_times)[None, :]
        is_seen &= tl.load(visible_ptr + row[:, None] * num_times + column[None, :], mask=both, other=1) != 0
    scores = tl.where(is_seen, scores * scale, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit(do_not_specialize=_UNSPECIALISED)
def weights_kernel(
    score_ptr, visible_ptr, weight_ptr, num_times, pitch, num_blocks, scale,
    ROWS: tl.constexpr, TIMES: tl.constexpr, MASKED: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Scores of all blocks to weights (batch x head, pitch, pitch). Grid: blocks of ROWS times, batch x heads."""
    first, tile = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    score_ptr += tile * num_blocks * pitch * pitch
    weights = time_weights(
        score_ptr, visible_ptr, first, num_times, pitch, num_blocks, scale, ROWS, TIMES, MASKED, AHEAD
    )
    row, column = first + tl.arange(0, ROWS), tl.arange(0, TIMES)
    offsets = tile * pitch * pitch + row[:, None] * pitch + column[None, :]
    mask = (row < pitch)[:, None] & (column < pitch)[None, :]
    tl.store(weight_ptr + offsets, weights.to(weight_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def values_kernel(
    value_ptr, weight_ptr, visible_ptr, gate_ptr, out_ptr, num_times, num_positions, span, pitch, num_blocks, scale,
    value_batch_stride, value_row_stride, value_head_stride,
    TIMES: tl.constexpr, P: tl.constexpr, FROM_SCORES: tl.constexpr, MASKED: tl.constexpr, AHEAD: tl.constexpr,
    TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Weighted values times the gate, as contiguous rows of cells. Grid: heads, blocks of `span` positions, batch.

    With FROM_SCORES, each program turns the scores into weights itself: for few times, that is less than a launch.
    """
    head, first, batch = tl.program_id(0), tl.program_id(1) * span, tl.program_id(2).to(tl.int64)
    num_heads = tl.num_programs(0)
    channel = tl.arange(0, P)
    time = tl.arange(0, TIMES)
    tile = batch * num_heads + head
    if FROM_SCORES:
        weight_ptr += tile * num_blocks * pitch * pitch
        weights = time_weights(
            weight_ptr, visible_ptr, 0, num_times, pitch, num_blocks, scale, TIMES, TIMES, MASKED, AHEAD
        )
    else:
        mask = (time < pitch)[:, None] & (time < pitch)[None, :]
        offsets = tile * pitch * pitch + time[:, None] * pitch + time[None, :]
        weights = tl.load(weight_ptr + offsets, mask=mask, other=0.0)
    weights = weights.to(TILE)
    gate = tl.load(gate_ptr + head * P + channel).to(tl.float32)
    is_time = (time < num_times)[:, None] & (channel >= 0)[None, :]
    width = num_heads * P
    value_ptr += batch * value_batch_stride + head.to(tl.int64) * value_head_stride
    values = value_ptr + tile_offsets(first, num_positions, value_row_stride, TIMES, P)
    out_ptr += batch * num_times * num_positions * width + head * P
    outs = out_ptr + tile_offsets(first, num_positions, width, TIMES, P)
    for _ in tl.range(tl.minimum(span, num_positions - first), num_stages=STAGES):
        value = tl.load(values, mask=is_time, other=0.0)
        mixed = product(weights, value.to(TILE)) * gate[None, :]
        tl.store(outs, mixed.to(out_ptr.dtype.element_ty), mask=is_time)
        values += value_row_stride
        outs += width
