"""Launches of attention over time: shapes of programs and scratch memory.

Nothing about lengths is a compile-time constant but the power of two that holds all times.
"""

from typing import NamedTuple

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor

from m4v.ops.time_attention.kernels import scores_kernel, values_kernel, weights_kernel

# The interpreter computes bf16 on its bits, silently wrong, so tiles are fp32 there.
INTERPRETED = not isinstance(scores_kernel, triton.JITFunction)
# Programs that keep a data-centre GPU busy: eight for each of 132 multiprocessors.
_ENOUGH_PROGRAMS = 1056
# Up to here every program of the values makes its own weights.
_FEW_TIMES = 16
_WEIGHT_ROWS = 8
# Blocks of positions whose scores are requested before the first is added.
_BLOCKS_AHEAD = 8
_TRITON_DTYPES = {
    torch.float32: triton.language.float32,
    torch.bfloat16: triton.language.bfloat16,
    torch.float16: triton.language.float16,
}


class Tiling(NamedTuple):
    """Shapes of programs, whose values stay in registers on sm_90 (a test compiles them and looks).

    Attributes:
        times: Rows of a tile, a power of two.
        warps: Of programs that walk positions.
        stages: Positions in flight.
    """

    times: int
    warps: int
    stages: int


def tiling(num_times: int, head_dim: int, dtype: torch.dtype) -> Tiling:
    """Choose shapes for a number of times, a head width and a dtype."""
    times = max(triton.next_power_of_2(num_times), 16)
    if INTERPRETED:
        return Tiling(times, 4, 1)
    tile_bytes = times * head_dim * dtype.itemsize
    warps = min(max(times * max(times, head_dim) * dtype.itemsize // 2048, 1), 8)
    # As many as fit half the shared memory together with what the products need; four of the smallest tiles.
    stages = 4 if tile_bytes <= 4096 else 3 if tile_bytes <= 8192 else 2 if tile_bytes <= 16384 else 1
    return Tiling(times, warps, stages)


def block_span(num_positions: int, num_tiles: int) -> int:
    """Positions that a program walks, for `num_tiles` heads of all samples."""
    num_blocks = min(num_positions, -(-_ENOUGH_PROGRAMS // num_tiles))
    return -(-num_positions // num_blocks)


def forward(
    query: Float[Tensor, "b c g p"],
    key: Float[Tensor, "b c g p"],
    value: Float[Tensor, "b c g p"],
    gate: Float[Tensor, "d"],
    num_times: int,
    visible: Bool[Tensor, "f f"] | None,
    query_norm: Float[Tensor, "p"] | None,
    key_norm: Float[Tensor, "p"] | None,
    eps: float,
) -> Float[Tensor, "b c d"]:
    """The same as `reference.time_attention`, by kernels; sums are in fp32, and rounded once."""
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    batch, num_cells, num_heads, head_dim = value.shape
    positions = num_cells // num_times
    out = value.new_empty(batch, num_cells, num_heads * head_dim, dtype=torch.promote_types(value.dtype, gate.dtype))
    if not out.numel():
        return out
    tiles = tiling(num_times, head_dim, value.dtype)
    span = block_span(positions, batch * num_heads)
    blocks = triton.cdiv(positions, span)
    pitch = triton.cdiv(num_times, 16) * 16
    tile = _TRITON_DTYPES[torch.float32 if INTERPRETED else value.dtype]
    scale = (positions * head_dim) ** -0.5
    weights = scores = value.new_empty(batch, num_heads, blocks, pitch, pitch, dtype=torch.float32)
    mask = scores if visible is None else visible.contiguous()
    norms = (query, key) if query_norm is None or key_norm is None else (query_norm.contiguous(), key_norm.contiguous())
    walk = {"TIMES": tiles.times, "P": head_dim, "TILE": tile, "STAGES": tiles.stages, "num_warps": tiles.warps}
    seen = {"MASKED": visible is not None, "AHEAD": _BLOCKS_AHEAD}
    with torch.cuda.device_of(value):
        scores_kernel[(num_heads, blocks, batch)](
            query, key, *norms, scores, num_times, positions, span, pitch, *query.stride()[:3], *key.stride()[:3], eps,
            NORM=query_norm is not None, **walk,
        )  # fmt: skip
        if num_times > _FEW_TIMES:
            weights = value.new_empty(batch, num_heads, pitch, pitch)
            weights_kernel[(triton.cdiv(pitch, _WEIGHT_ROWS), batch * num_heads)](
                scores, mask, weights, num_times, pitch, blocks, scale, ROWS=_WEIGHT_ROWS, TIMES=tiles.times, **seen,
                num_warps=4,
            )  # fmt: skip
        values_kernel[(num_heads, blocks, batch)](
            value, weights, mask, gate.contiguous(), out, num_times, positions, span, pitch, blocks, scale,
            *value.stride()[:3], FROM_SCORES=num_times <= _FEW_TIMES, **seen, **walk,
        )  # fmt: skip
    return out
