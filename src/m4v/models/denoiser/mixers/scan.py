"""The selective scan that every MM-DiM mixer shares: from projected rows in scan order to mixed rows (Sec. 3.3).

Mixers differ in how they project, normalise and re-compose tokens; what they hand over is the same on both bases.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import MixerConfig
from m4v.models.denoiser.context import ScanOrder
from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.rope import apply_rotary
from m4v.ops.ssd.reference import ssd


def _as_is(x: Tensor) -> Tensor:
    return x


class SelectiveScan(nn.Module):
    """Base class of MM-DiM mixers: parameters of convolution, SSD and output norm, and the scan itself.

    Heads, head width and state size are those of the attention it replaces (one B and C per head), so that query, key
    and value weights can become C, B and x (Appendix D.2).

    Args:
        num_heads: Heads.
        head_dim: Width of x, z and the output per head.
        options: Convolution, state size, discretisation.
    """

    def __init__(self, num_heads: int, head_dim: int, options: MixerConfig) -> None:
        super().__init__()
        self.options = options
        self.num_heads = num_heads
        state_dim = options.state_dim or head_dim
        # Channels of [x, B, C].
        self.splits = (num_heads * head_dim, num_heads * state_dim, num_heads * state_dim)
        if options.conv_width:
            self.conv_weight = nn.Parameter(torch.empty(sum(self.splits), options.conv_width))
            self.conv_bias = nn.Parameter(torch.empty(sum(self.splits)))
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.D_skip = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))
        self.norm_weight = nn.Parameter(torch.ones(num_heads, head_dim))

    def reset_parameters(self) -> None:
        """Mamba-2's initialisation: A in [-16, -1], step sizes log-uniform in [0.001, 0.1], D = 1."""
        if self.options.conv_width:
            bound = 1 / math.sqrt(self.options.conv_width)
            nn.init.uniform_(self.conv_weight, -bound, bound)
            nn.init.uniform_(self.conv_bias, -bound, bound)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.D_skip.fill_(1.0)
            self.norm_weight.fill_(1.0)
            step = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def scan(
        self,
        z: Float[Tensor, "b m d"],
        xbc: Float[Tensor, "b m e"],
        dt: Float[Tensor, "b m g"],
        order: ScanOrder,
        norm_b: Callable[[Tensor], Tensor] = _as_is,
        norm_c: Callable[[Tensor], Tensor] = _as_is,
    ) -> Float[Tensor, "b m d"]:
        """Convolve, normalise, rotate, scan, gate.

        Args:
            z: Gate, in scan order.
            xbc: Value, input vector and output vector side by side, in scan order.
            dt: Step sizes before bias and softplus.
            order: Which rows are real, and their rotation.
            norm_b: Applied to B per head after the convolution; nothing by default.
            norm_c: Applied to C.
        """
        is_real = order.bound.is_real[..., None]
        if self.options.conv_width:
            # Rows of padding are zeroed so that the first real tokens see zeros before them, not bias.
            xbc = causal_conv(xbc * is_real, self.conv_weight, self.conv_bias)
            if self.options.conv_activation == "silu":
                xbc = F.silu(xbc)
        x, B, C = (part.unflatten(-1, (self.num_heads, -1)) for part in xbc.split(self.splits, dim=-1))
        B, C = norm_b(B), norm_c(C)
        if order.rotary is not None:
            B, C = apply_rotary(B, order.rotary), apply_rotary(C, order.rotary)

        # dt = 0 leaves the state untouched: padding "keeps h zero" (Sec. 3.3) only if it is masked.
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)) * is_real
        y = ssd(
            x,
            dt,
            -torch.exp(self.A_log.to(wide)),
            B,
            C,
            D=self.D_skip,
            chunk_size=self.options.chunk_size,
            discretisation=self.options.discretisation,
        ).y
        return gated_rms_norm(y, z.unflatten(-1, (self.num_heads, -1)), self.norm_weight).flatten(2)
