"""What a span of the scan does to the state that enters it: it fades it by one factor per head and adds its own.

Both are needed by the ranks behind before they can scan, so they are computed ahead of the scan itself, from x, B and
step sizes alone: neither outputs nor scores. That is `2 N P` operations per token and head, a quarter of the scan.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.recompose.reference import recompose
from m4v.ops.rms_norm import rms_norm
from m4v.ops.rope import apply_rotary
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder
from m4v.ops.ssd.reference import input_weight


class SpanEffect(NamedTuple):
    """The state behind a span is `exp(log_decay)` times the state before it, plus `state`."""

    log_decay: Float[Tensor, "b g"]
    state: Float[Tensor, "b g p s"]


def span_effect(
    rows: Float[Tensor, "b n f"],
    register_rows: Float[Tensor, "k f"],
    dt: Float[Tensor, "b n g"],
    register_dt: Float[Tensor, "k g"],
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
) -> SpanEffect:
    """Effect of the span that `scan_section` would mix with the same arguments, in single precision or wider.

    Under gradients only the arguments are kept; the rest is computed again.
    """
    arguments = (rows, register_rows, dt, register_dt, weights, order, options)
    if torch.is_grad_enabled():
        effect: SpanEffect = checkpoint(_span_effect, *arguments, use_reentrant=False, preserve_rng_state=False)
        return effect
    return _span_effect(*arguments)


def _span_effect(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
) -> SpanEffect:
    num_heads, head_dim = weights.norm_weight.shape
    width = num_heads * head_dim
    xb = slice(width, (rows.shape[-1] + 2 * width) // 2)  # of [z | x | B | C]
    wide = torch.promote_types(torch.promote_types(rows.dtype, dt.dtype), torch.float32)
    values = recompose(rows[..., xb], register_rows[..., xb], order.rows).to(wide)
    real = order.is_real[..., None]
    if weights.conv_weight is not None and weights.conv_bias is not None:
        taps = slice(0, values.shape[-1])
        values = causal_conv(values * real, weights.conv_weight[taps], weights.conv_bias[taps])
        values = F.silu(values) if options.conv_silu else values
    x, B = (part.unflatten(-1, (num_heads, -1)) for part in values.tensor_split([width], dim=-1))
    if weights.norm_b is not None:
        B = rms_norm(B, weights.norm_b, options.norm_eps)
    if order.rotary is not None:
        B = apply_rotary(B, order.rotary)
    # Rounded where the scan rounds them.
    x, B = x.to(rows.dtype).to(wide), B.to(rows.dtype).to(wide)

    steps = recompose(dt, register_dt, order.rows)
    steps = F.softplus(steps.to(wide) + weights.dt_bias.to(wide)) * real
    A = -torch.exp(weights.A_log.to(wide))
    # Summed from the end: exact where it matters, for what is far from the end has faded.
    fading = (steps * A).flip(1).cumsum(1)
    to_end = F.pad(fading[:, :-1], (0, 0, 1, 0)).flip(1)
    writes = x * (torch.exp(to_end) * input_weight(steps, A, options.discretisation))[..., None]
    return SpanEffect(fading[:, -1], torch.einsum("bngp,bngs->bgps", writes, B))
