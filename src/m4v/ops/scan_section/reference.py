"""The scan section in plain torch: from projected rows in token order to mixed rows in token order (Sec. 3.3).

It is the composition of the operations beside it: re-compose, convolve, normalise and rotate B and C, scan, gate,
normalise, invert. Rows carry [z | x | B | C] side by side; g heads of width p (z, x) and s (B, C).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.recompose.reference import invert, recompose
from m4v.ops.rms_norm import rms_norm
from m4v.ops.rope import RotaryTable, apply_rotary
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput
from m4v.ops.ssd.reference import ssd

HeadMap = Callable[[Tensor], Tensor]
"""What is done to B or C, `b m g s`, head by head."""


def as_is(rows: Tensor) -> Tensor:
    """Leave B or C alone."""
    return rows


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
    width = weights.norm_weight.numel()
    z, xbc = recompose(rows, register_rows, order.rows).tensor_split([width], dim=-1)
    step = recompose(dt, register_dt, order.rows)
    mixed, final_state = scan_rows(
        z,
        xbc,
        step,
        weights,
        order.is_real,
        order.rotary,
        options,
        norm_b=_head_norm(weights.norm_b, options.norm_eps),
        norm_c=_head_norm(weights.norm_c, options.norm_eps),
        initial_state=initial_state,
    )
    return SectionOutput(invert(mixed, order.rows), final_state)


def scan_rows(
    z: Float[Tensor, "b m d"],
    xbc: Float[Tensor, "b m e"],
    dt: Float[Tensor, "b m g"],
    weights: ScanWeights,
    is_real: Bool[Tensor, "b m"],
    rotary: RotaryTable | None,
    options: ScanOptions,
    norm_b: HeadMap = as_is,
    norm_c: HeadMap = as_is,
    initial_state: Float[Tensor, "b g p s"] | None = None,
) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b g p s"]]:
    """Convolve, normalise, rotate, scan and gate rows that are in scan order already.

    Args:
        z: Gate.
        xbc: Value, input vector and output vector side by side.
        dt: Step sizes before bias and softplus.
        is_real: False on text padding.
        rotary: Rotation of each scan position; None for no positions.
        norm_b: Applied to B per head after the convolution, in place of `weights.norm_b`.
        norm_c: Applied to C, likewise.
        initial_state: State before the first scan position; zero if absent.

    Returns:
        Mixed rows in scan order, and the state after the last one.
    """
    num_heads, head_dim = weights.norm_weight.shape
    width = num_heads * head_dim
    state_width = (xbc.shape[-1] - width) // 2
    real = is_real[..., None]
    if weights.conv_weight is not None:
        # Rows of padding are zeroed so that the first real tokens see zeros before them, not bias.
        xbc = causal_conv(xbc * real, weights.conv_weight, weights.conv_bias)
        if options.conv_silu:
            xbc = F.silu(xbc)
    parts = xbc.split([width, state_width, state_width], dim=-1)
    x, B, C = (part.unflatten(-1, (num_heads, -1)) for part in parts)
    B, C = norm_b(B), norm_c(C)
    if rotary is not None:
        B, C = apply_rotary(B, rotary), apply_rotary(C, rotary)

    # dt = 0 leaves the state untouched: padding "keeps h zero" (Sec. 3.3) only if it is masked.
    wide = torch.promote_types(dt.dtype, torch.float32)
    step = F.softplus(dt.to(wide) + weights.dt_bias.to(wide)) * real
    scanned = ssd(
        x,
        step,
        -torch.exp(weights.A_log.to(wide)),
        B,
        C,
        D=weights.D,
        initial_state=initial_state,
        chunk_size=options.chunk_size,
        discretisation=options.discretisation,
    )
    gated = gated_rms_norm(scanned.y, z.unflatten(-1, (num_heads, -1)), weights.norm_weight)
    return gated.flatten(2), scanned.final_state


def _head_norm(weight: Tensor | None, eps: float) -> HeadMap:
    return as_is if weight is None else partial(rms_norm, weight=weight, eps=eps)
