"""The selective scan that every MM-DiM mixer shares: from projected rows in scan order to mixed rows (Sec. 3.3).

Mixers differ in how they project, normalise and re-compose tokens; what they hand over is the same on both bases.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import MixerConfig
from m4v.models.denoiser.context import ScanOrder
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights
from m4v.ops.scan_section.reference import HeadMap, as_is, scan_rows


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
        norm_b: HeadMap = as_is,
        norm_c: HeadMap = as_is,
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
        has_conv = self.options.conv_width > 0
        weights = ScanWeights(
            conv_weight=self.conv_weight if has_conv else None,
            conv_bias=self.conv_bias if has_conv else None,
            A_log=self.A_log,
            D=self.D_skip,
            dt_bias=self.dt_bias,
            norm_weight=self.norm_weight,
        )
        options = ScanOptions(
            conv_silu=self.options.conv_activation == "silu",
            discretisation=self.options.discretisation,
            chunk_size=self.options.chunk_size,
        )
        mixed, _ = scan_rows(z, xbc, dt, weights, order.bound.is_real, order.rotary, options, norm_b, norm_c)
        return mixed
