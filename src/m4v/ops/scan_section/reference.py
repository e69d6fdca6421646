"""The scan section in plain torch: from projected rows in token order to mixed rows in token order (Sec. 3.3).

It is the composition of the operations beside it: re-compose, convolve, normalise and rotate B and C, scan, gate,
normalise, invert. Rows carry [z | x | B | C] side by side; g heads of width p (z, x) and s (B, C).

The sequence is walked in strips of a few chunks, each handing the state and the last rows of the convolution to the
next: what happens to a strip happens in the processor's caches, and only rows exist for the whole sequence.
"""

from collections.abc import Iterator
from itertools import repeat

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.recompose.reference import invert, recompose, recompose_strips
from m4v.ops.rms_norm import rms_norm
from m4v.ops.rope import RotaryTable, apply_rotary
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput
from m4v.ops.ssd.reference import default_chunk_size, num_threads, ssd

_STRIP_BYTES = 2**22
"""Rows of a strip per core, in single precision: small enough to stay cached between two operations."""


def scan_section(
    rows: Float[Tensor, "b n f"],
    register_rows: Float[Tensor, "k f"],
    dt: Float[Tensor, "b n g"],
    register_dt: Float[Tensor, "k g"],
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
    initial_state: Float[Tensor, "b g p s"] | None = None,
) -> SectionOutput:
    """Mix rows along a scan order.

    Args:
        rows: Projections [z | x | B | C] of every token, text first.
        register_rows: Projections of the registers, one row per kind; their z is not used.
        dt: Step sizes before bias and softplus.
        register_dt: The same of the registers.
        initial_state: State before the first scan position; zero if absent.

    Source: Sec. 3.3, Eqs. 1 to 3, Fig. 2b and 2c.
    """
    length = _strip_length(rows, weights, options)
    strips = recompose_strips(rows, register_rows, order.rows, length)
    steps = recompose(dt, register_dt, order.rows).split(length, dim=1)
    reals = order.is_real.split(length, dim=1)
    # Kept for the backward: rows, and what each strip hands on. The rest is computed again.
    recompute = len(steps) > 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    history, state, outputs = None, initial_state, []
    for strip, step, real, rotary in zip(strips, steps, reals, _turns(order.rotary, length, len(steps)), strict=True):
        arguments = (strip, step, real, rotary, history, state, weights, options)
        mixed, history, state = (
            checkpoint(_mix_strip, *arguments, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else _mix_strip(*arguments)
        )
        outputs.append(mixed)
    assert state is not None
    return SectionOutput(invert(torch.cat(outputs, dim=1), order.rows), state)


def _strip_length(rows: Tensor, weights: ScanWeights, options: ScanOptions) -> int:
    """Whole chunks, as many as the caches hold, and on other devices as many as keep them busy."""
    batch, _, row_width = rows.shape
    num_heads, head_dim = weights.norm_weight.shape
    chunk = options.chunk_size or default_chunk_size(head_dim, row_width // (2 * num_heads) - head_dim)
    size = _STRIP_BYTES * num_threads() if rows.device.type == "cpu" else 2**29
    # The next strip's convolution looks back into this one only.
    shortest = 1 if weights.conv_weight is None else weights.conv_weight.shape[1]
    return chunk * max(-(-shortest // chunk), size // (4 * batch * row_width * chunk))


def _turns(rotary: RotaryTable | None, length: int, number: int) -> Iterator[RotaryTable | None]:
    """Rotations of each of `number` strips."""
    if rotary is None:
        yield from repeat(None, number)
    else:
        yield from map(RotaryTable, rotary.cos.split(length), rotary.sin.split(length))


def _mix_strip(
    rows: Tensor,
    dt: Tensor,
    is_real: Tensor,
    rotary: RotaryTable | None,
    history: Tensor | None,
    state: Tensor | None,
    weights: ScanWeights,
    options: ScanOptions,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mix rows in scan order; also the last rows before the convolution, and the state after the strip."""
    num_heads, head_dim = weights.norm_weight.shape
    width = num_heads * head_dim
    z, xbc = rows.tensor_split([width], dim=-1)
    state_width = (xbc.shape[-1] - width) // 2
    real = is_real[..., None]
    # From here to the products in single precision: half would be converted there and back in every operation.
    xbc = xbc.to(torch.promote_types(rows.dtype, torch.float32))
    if weights.conv_weight is not None:
        # Padding is zeroed so that the first real tokens see zeros before them, not bias.
        xbc = xbc * real
        convolved = causal_conv(xbc, weights.conv_weight, weights.conv_bias, history=history)
        history = xbc[:, xbc.shape[1] - weights.conv_weight.shape[1] + 1 :]
        xbc = F.silu(convolved) if options.conv_silu else convolved
    parts = xbc.split([width, state_width, state_width], dim=-1)
    x, B, C = (part.unflatten(-1, (num_heads, -1)) for part in parts)
    if weights.norm_b is not None and weights.norm_c is not None:
        B, C = rms_norm(B, weights.norm_b, options.norm_eps), rms_norm(C, weights.norm_c, options.norm_eps)
    if rotary is not None:
        B, C = apply_rotary(B, rotary), apply_rotary(C, rotary)

    # dt = 0 leaves the state untouched: padding "keeps h zero" (Sec. 3.3) only if it is masked.
    wide = torch.promote_types(dt.dtype, torch.float32)
    step = F.softplus(dt.to(wide) + weights.dt_bias.to(wide)) * real
    scanned = ssd(
        x.to(rows.dtype),
        step,
        -torch.exp(weights.A_log.to(wide)),
        B.to(rows.dtype),
        C.to(rows.dtype),
        D=weights.D,
        initial_state=state,
        chunk_size=options.chunk_size,
        discretisation=options.discretisation,
    )
    gated = gated_rms_norm(scanned.y, z.unflatten(-1, (num_heads, -1)), weights.norm_weight)
    return gated.flatten(2), history, scanned.final_state
