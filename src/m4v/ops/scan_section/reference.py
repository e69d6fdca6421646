"""The scan section in plain torch: from projected rows in token order to mixed rows in token order (Sec. 3.3).

It is the composition of the operations beside it: re-compose, convolve, normalise and rotate B and C, scan, gate,
normalise, invert. Rows carry [z | x | B | C] side by side; g heads of width p (z, x) and s (B, C).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.recompose.reference import invert, recompose
from m4v.ops.rms_norm import rms_norm
from m4v.ops.rope import apply_rotary
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput
from m4v.ops.ssd.reference import ssd


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
    num_heads, head_dim = weights.norm_weight.shape
    width = num_heads * head_dim
    state_width = (rows.shape[-1] - 2 * width) // 2
    z, xbc = recompose(rows, register_rows, order.rows).tensor_split([width], dim=-1)
    is_real = order.is_real[..., None]
    if weights.conv_weight is not None:
        # Rows of padding are zeroed so that the first real tokens see zeros before them, not bias.
        xbc = causal_conv(xbc * is_real, weights.conv_weight, weights.conv_bias)
        if options.conv_silu:
            xbc = F.silu(xbc)
    parts = xbc.split([width, state_width, state_width], dim=-1)
    x, B, C = (part.unflatten(-1, (num_heads, -1)) for part in parts)
    B = B if weights.norm_b is None else rms_norm(B, weights.norm_b, options.norm_eps)
    C = C if weights.norm_c is None else rms_norm(C, weights.norm_c, options.norm_eps)
    if order.rotary is not None:
        B, C = apply_rotary(B, order.rotary), apply_rotary(C, order.rotary)

    # dt = 0 leaves the state untouched: padding "keeps h zero" (Sec. 3.3) only if it is masked.
    wide = torch.promote_types(dt.dtype, torch.float32)
    raw = recompose(dt, register_dt, order.rows).to(wide)
    step = F.softplus(raw + weights.dt_bias.to(wide)) * is_real
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
    mixed = gated_rms_norm(scanned.y, z.unflatten(-1, (num_heads, -1)), weights.norm_weight).flatten(2)
    return SectionOutput(invert(mixed, order.rows), scanned.final_state)
