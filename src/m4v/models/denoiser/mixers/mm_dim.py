"""The MM-DiM mixer: re-compose, scan, invert (Sec. 3.3, Fig. 2b main branch).

Every per-token linear map commutes with re-composition, so tokens are projected once, in their natural order, although
text is scanned twice. Channels of the projection are `[z | x | B | C | dt]`: gate, value, input vector, output vector,
step size.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.normalization import HeadNorm
from m4v.models.denoiser.recomposition.registers import FrameRegisters
from m4v.ops.causal_conv.reference import causal_conv
from m4v.ops.gated_norm.reference import gated_rms_norm
from m4v.ops.recompose.reference import invert, recompose
from m4v.ops.rope import apply_rotary
from m4v.ops.ssd.reference import ssd


class MMDiMMixer(nn.Module):
    """Mamba-2 scan over re-composed multimodal tokens.

    Heads, head width and state size are those of the attention it replaces (one B and C per head), so that query, key
    and value weights can become C, B and x (Appendix D.2). The output goes through the block's joint matrix.

    Args:
        config: Network configuration.
        scan_path: Letter of this layer's path (Fig. 6).
    """

    def __init__(self, config: DenoiserConfig, scan_path: str) -> None:
        super().__init__()
        width, heads, head_dim = config.width, config.num_attention_heads, config.attention_head_dim
        state_dim = config.mixer.state_dim or head_dim
        self.options = config.mixer
        self.scan_path = scan_path
        self.num_heads = heads
        # Channels of [z, x, B, C, dt].
        self.splits = (width, width, heads * state_dim, heads * state_dim, heads)
        conv_dim = sum(self.splits[1:4])
        self.in_proj = nn.Linear(width, sum(self.splits))
        if self.options.conv_width:
            self.conv_weight = nn.Parameter(torch.empty(conv_dim, self.options.conv_width))
            self.conv_bias = nn.Parameter(torch.empty(conv_dim))
        if self.options.qk_norm:
            self.norm_b = HeadNorm(state_dim)
            self.norm_c = HeadNorm(state_dim)
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm_weight = nn.Parameter(torch.ones(heads, head_dim))
        if config.recomposition.registers:
            self.registers = FrameRegisters(config.num_levels, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba-2's initialisation: A in [-16, -1], step sizes log-uniform in [0.001, 0.1], D = 1."""
        if self.options.conv_width:
            bound = 1 / math.sqrt(self.options.conv_width)
            nn.init.uniform_(self.conv_weight, -bound, bound)
            nn.init.uniform_(self.conv_bias, -bound, bound)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.D.fill_(1.0)
            self.norm_weight.fill_(1.0)
            step = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, tokens: Float[Tensor, "b n d"], context: SequenceContext) -> Float[Tensor, "b n d"]:
        if context.added_positions is not None:
            tokens = tokens + context.added_positions.to(tokens.dtype)
        scan = context.scan_orders[self.scan_path]
        projected = self.in_proj(tokens)
        scanned = recompose(projected, self._register_rows(projected), scan.bound.order)
        z, xbc, dt = scanned.split([self.splits[0], sum(self.splits[1:4]), self.splits[4]], dim=-1)
        is_real = scan.bound.is_real[..., None]

        if self.options.conv_width:
            # Rows of padding are zeroed so that the first real tokens see zeros before them, not bias.
            xbc = F.silu(causal_conv(xbc * is_real, self.conv_weight, self.conv_bias))
        x, B, C = (part.unflatten(-1, (self.num_heads, -1)) for part in xbc.split(self.splits[1:4], dim=-1))
        if self.options.qk_norm:
            B, C = self.norm_b(B), self.norm_c(C)
        if scan.rotary is not None:
            B, C = apply_rotary(B, scan.rotary), apply_rotary(C, scan.rotary)

        # dt = 0 leaves the state untouched: padding "keeps h zero" (Sec. 3.3) only if it is masked.
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)) * is_real
        y = ssd(
            x,
            dt,
            -torch.exp(self.A_log.to(wide)),
            B,
            C,
            D=self.D,
            chunk_size=self.options.chunk_size,
            discretisation=self.options.discretisation,
        ).y
        y = gated_rms_norm(y, z.unflatten(-1, (self.num_heads, -1)), self.norm_weight)
        return invert(y.flatten(2), scan.bound.order)

    def _register_rows(self, like: Tensor) -> Tensor:
        if not hasattr(self, "registers"):
            return like.new_zeros(0, like.shape[-1])
        return self.in_proj(self.registers())
