"""The selective scan that every MM-DiM mixer shares: from projected rows to mixed rows, in token order (Sec. 3.3).

Mixers differ in how they project tokens; what they hand over is the same on both bases.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import MixerConfig
from m4v.models.denoiser.recomposition.scan_order import ScanOrder
from m4v.ops.scan_section.dispatch import scan_section
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights


class SelectiveScan(nn.Module):
    """Base class of MM-DiM mixers: parameters of convolution, SSD and output norm, and the scan itself.

    Heads, head width and state size are those of the attention it replaces (one B and C per head), so that query, key
    and value weights can become C, B and x (Appendix D.2).

    Args:
        num_heads: Heads.
        head_dim: Width of x, z and the output per head.
        options: Convolution, state size, discretisation.
        has_head_norm: Whether B and C are RMS-normalised per head after the convolution, with the weights `norm_b` and
            `norm_c`. They are parameters of the mixer itself, not layers, as all that the scan reads has to be on its
            device at one time, also where layers are offloaded one by one.
    """

    def __init__(self, num_heads: int, head_dim: int, options: MixerConfig, *, has_head_norm: bool) -> None:
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
        self.norm_b = nn.Parameter(torch.ones(state_dim)) if has_head_norm else None
        self.norm_c = nn.Parameter(torch.ones(state_dim)) if has_head_norm else None

    def reset_parameters(self) -> None:
        """Mamba-2's initialisation: A in [-16, -1], step sizes log-uniform in [0.001, 0.1], D = 1."""
        if self.options.conv_width:
            bound = 1 / math.sqrt(self.options.conv_width)
            nn.init.uniform_(self.conv_weight, -bound, bound)
            nn.init.uniform_(self.conv_bias, -bound, bound)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.D_skip.fill_(1.0)
            for weight in (self.norm_weight, self.norm_b, self.norm_c):
                if weight is not None:
                    weight.fill_(1.0)
            step = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def mix(
        self,
        rows: Float[Tensor, "b n f"],
        register_rows: Float[Tensor, "k f"],
        dt: Float[Tensor, "b n g"],
        register_dt: Float[Tensor, "k g"],
        order: ScanOrder,
    ) -> Float[Tensor, "b n d"]:
        """Re-compose, convolve, normalise, rotate, scan, gate and invert: rows in token order in and out.

        Args:
            rows: Gate, value, input vector and output vector side by side; may be a slice of a wider projection.
            register_rows: The same of the registers, one row per kind; no rows if there are none.
            dt: Step sizes before bias and softplus.
            register_dt: The same of the registers.
            order: Where rows go, and how they turn.

        Source: Sec. 3.3, Fig. 2b and 2c.
        """
        has_conv = self.options.conv_width > 0
        weights = ScanWeights(
            conv_weight=self.conv_weight if has_conv else None,
            conv_bias=self.conv_bias if has_conv else None,
            A_log=self.A_log,
            D=self.D_skip,
            dt_bias=self.dt_bias,
            norm_weight=self.norm_weight,
            norm_b=self.norm_b,
            norm_c=self.norm_c,
        )
        options = ScanOptions(
            conv_silu=self.options.conv_activation == "silu",
            discretisation=self.options.discretisation,
            chunk_size=self.options.chunk_size,
        )
        return order.mix(scan_section, rows, register_rows, dt, register_dt, weights, options)
