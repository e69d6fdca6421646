# mypy: ignore-errors
"""Device functions shared by the kernels. Tiles are [tokens, channels] in fp32 unless said otherwise."""

import triton
import triton.language as tl


@triton.jit
def softplus(v):
    """log(1 + e^v) to full precision at both ends: log1p by its atanh series, whose argument is at most 1/3."""
    u = tl.exp(-tl.abs(v))
    r = u / (2.0 + u)
    q = r * r
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q / 13)))))
    return tl.maximum(v, 0.0) + 2.0 * r * series


@triton.jit
def sigmoid(v):
    """1 / (1 + e^-v), the reciprocal as the inverse root of the square: fewer instructions than a division."""
    u = 1.0 + tl.exp2(tl.minimum(v * -1.4426950408889634, 60.0))
    return tl.rsqrt(u * u)


@triton.jit
def silu(v):
    """v sigmoid(v)."""
    return v * sigmoid(v)


@triton.jit
def input_weight(dt, A, ZOH: tl.constexpr):
    """Weight of the input term; see `ops.ssd.reference.input_weight`."""
    if ZOH:
        u = -dt * A
        series = 1.0 - u * (1 / 2 - u * (1 / 6 - u * (1 / 24 - u / 120)))
        return dt * tl.where(u > 0.1, (1.0 - tl.exp(-u)) / tl.maximum(u, 0.1), series)
    else:
        return dt


@triton.jit
def input_weight_slopes(dt, A, weight, ZOH: tl.constexpr):
    """Derivatives of `input_weight` by dt and by A."""
    if ZOH:
        u = -dt * A
        shrink = tl.exp(-u)
        series = dt * dt * (1 / 2 - u * (1 / 3 - u * (1 / 8 - u * (1 / 30 - u / 144))))
        return shrink, tl.where(u > 0.1, (dt * shrink - weight) / A, series)
    else:
        return dt * 0.0 + 1.0, dt * 0.0


@triton.jit
def rotate(v, cos, sin, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """Turn channel pairs (2j, 2j + 1)."""
    even, odd = tl.split(tl.reshape(v, (TOKENS, WIDTH // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (TOKENS, WIDTH))


@triton.jit
def product(left, right, total=None):
    """Matrix product plus `total`, in fp32; fp32 operands in three TF32 products, which lose next to nothing."""
    return tl.dot(left, right, total, input_precision="tf32x3")


@triton.jit
def load_tile(pointer, start, num_tokens, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows `start` and following of a contiguous [tokens, WIDTH] array in its own dtype; zero beyond its end."""
    token = tl.arange(0, TOKENS)
    offsets = token[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + start * WIDTH + offsets, mask=(token < num_tokens - start)[:, None], other=0.0)


@triton.jit
def store_tile(pointer, value, start, num_tokens, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """The reverse of `load_tile`."""
    token = tl.arange(0, TOKENS)
    offsets = token[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    mask = (token < num_tokens - start)[:, None]
    tl.store(pointer + start * WIDTH + offsets, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_tokens(pointer, start, num_tokens, TOKENS: tl.constexpr):
    """One number per token; zero beyond the end."""
    token = tl.arange(0, TOKENS)
    return tl.load(pointer + start + token, mask=token < num_tokens - start, other=0.0)


@triton.jit
def load_steps(dt_ptr, A, start, num_tokens, TOKENS: tl.constexpr, ZOH: tl.constexpr):
    """Step sizes, input weights, and cumulative and total log decay of a chunk in units of log 2.

    Decay is cumulated within the chunk only: over a whole sequence fp32 would lose its last digits. Tokens beyond the
    end have dt = 0, which leaves the state alone.
    """
    dt = load_tokens(dt_ptr, start, num_tokens, TOKENS)
    rate = dt * (A * 1.4426950408889634)
    return dt, input_weight(dt, A, ZOH), tl.cumsum(rate, 0), tl.sum(rate, 0)


@triton.jit
def load_steps_once(dt_ptr, A, start, num_tokens, TOKENS: tl.constexpr, ZOH: tl.constexpr):
    """Input weights, cumulative and total log decay as in `load_steps`.

    Each number is asked for several times over, as a tile that is too large for the compiler to load it anew for every
    layout of threads that needs it; that would take more instructions than the tiles of x, B and C.
    """
    COPIES: tl.constexpr = 2 if TOKENS >= 64 else 256 // TOKENS
    token = tl.arange(0, TOKENS)
    copy = tl.arange(0, COPIES)
    mask = (token < num_tokens - start)[:, None] & (copy >= 0)[None, :]
    dt = tl.max(tl.load(dt_ptr + start + token[:, None] + 0 * copy[None, :], mask=mask, other=0.0), 1)
    rate = dt * (A * 1.4426950408889634)
    return input_weight(dt, A, ZOH), tl.cumsum(rate, 0), tl.sum(rate, 0)


@triton.jit
def decay_between(late, early):
    """exp2(late - early); the minimum keeps what a mask or rounding makes positive from overflowing."""
    return tl.exp2(tl.minimum(late - early, 0.0))


@triton.jit
def advance(state, key, value, factor, last):
    """State [N, P] after a chunk: decayed over all of it, with the keys' outer products added."""
    value = (value.to(tl.float32) * factor[:, None]).to(value.dtype)
    return product(tl.trans(key), value, state * tl.exp2(last))


@triton.jit
def pair_decays(decay, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """Decay between two tokens of a chunk, [reader, writer]; zero unless the reader is the later (REVERSE: earlier)."""
    token = tl.arange(0, CHUNK)
    if REVERSE:
        between = decay_between(decay[None, :], decay[:, None])
        return tl.where(token[:, None] <= token[None, :], between, 0.0)
    else:
        between = decay_between(decay[:, None], decay[None, :])
        return tl.where(token[:, None] >= token[None, :], between, 0.0)


@triton.jit
def chunk_outputs(x, B, C, state, weight, decay, D, CHUNK: tl.constexpr):
    """Outputs y of a chunk before the gate; `state` is the one that enters, as an operand of products."""
    scores = product(C, tl.trans(B)) * pair_decays(decay, CHUNK, False) * weight[None, :]
    y = product(C, state) * tl.exp2(decay)[:, None] + D * x.to(tl.float32)
    return product(scores.to(x.dtype), x, y)


@triton.jit
def read_code(source_ptr, position, num_tokens):
    """Row that a scan position reads, and whether it is real; positions outside the sequence are not."""
    code = tl.load(source_ptr + position, mask=(position >= 0) & (position < num_tokens), other=-1)
    return tl.where(code >= 0, code, -code - 1), code >= 0


@triton.jit
def gather_rows(
    rows_ptr, register_ptr, row, mask, num_rows, row_stride, register_stride, channel, HAS_REGISTERS: tl.constexpr
):
    """Channels of token or register rows in fp32; zero where masked."""
    pointer = rows_ptr + row.to(tl.int64) * row_stride
    if HAS_REGISTERS:
        # Chosen by row, so that channels are loaded once.
        register = register_ptr + (row - num_rows).to(tl.int64) * register_stride
        pointer = tl.where(row < num_rows, pointer, register)
    return tl.load(pointer[:, None] + channel[None, :], mask=mask[:, None], other=0.0).to(tl.float32)


@triton.jit
def destination_row(destination_ptr, position, num_tokens, num_rows, num_copies):
    """Slot a scan position writes, the token row it stands for, and whether it stands for one (registers do not)."""
    slot = tl.load(destination_ptr + position, mask=position < num_tokens, other=num_rows + num_copies)
    row = tl.where(slot < num_rows, slot, slot - num_rows)
    return slot, row, slot < num_rows + num_copies


@triton.jit
def store_rows(direct_ptr, side_ptr, value, slot, channel, stride, num_rows, num_copies):
    """Store to the token row itself where it stands once in the sequence, else beside; slots below 0 are nowhere."""
    alone = (slot >= num_copies) & (slot < num_rows)
    offsets = slot.to(tl.int64)[:, None] * stride + channel[None, :]
    tl.store(direct_ptr + offsets, value.to(direct_ptr.dtype.element_ty), mask=alone[:, None])
    side = tl.where(slot < num_rows, slot, slot - num_rows + num_copies)
    offsets = side.to(tl.int64)[:, None] * stride + channel[None, :]
    tl.store(side_ptr + offsets, value, mask=((slot >= 0) & (alone == 0))[:, None])
