"""The MM-DiM mixer in place of Wan's self-attention, under the names of that attention's weights.

`to_q`, `to_k`, `to_v` and `to_out` become output vector C, input vector B, value x and output matrix, so that LoRA
files and converters find them where they were; RMSNorm over all heads and rotary embedding stay on C and B.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.recomposition.registers import FrameRegisters
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.denoiser.wan_context import WanContext
from m4v.ops.recompose.reference import invert, recompose


class WanMMDiMMixer(SelectiveScan):
    """Mamba-2 scan over re-composed text and video tokens, with an output projection of its own.

    The context says along which path.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config.num_attention_heads, config.attention_head_dim, config.mixer)
        width, (_, state_width, _) = config.width, self.splits
        self.to_q = nn.Linear(width, state_width)
        self.to_k = nn.Linear(width, state_width)
        self.to_v = nn.Linear(width, width)
        self.to_z = nn.Linear(width, width)
        self.to_dt = nn.Linear(width, self.num_heads)
        # A list, because Wan's attention has its matrix at `to_out.0`.
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        has_norm = config.mixer.qk_norm
        self.norm_q = nn.RMSNorm(state_width, eps=config.eps) if has_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(state_width, eps=config.eps) if has_norm else nn.Identity()
        if config.recomposition.registers:
            self.registers = FrameRegisters(config.recomposition.num_register_kinds, width)
        self.reset_parameters()

    def forward(self, tokens: Float[Tensor, "b n d"], context: WanContext) -> Float[Tensor, "b n d"]:
        """Mix text and video tokens, text first; the two copies of a text token are summed before the output matrix."""
        scan = context.scan
        assert scan is not None
        projected = self._project(tokens)
        if hasattr(self, "registers"):
            rows = self._project(self.registers().to(tokens.dtype))
        else:
            rows = tuple(part.new_zeros(0, part.shape[-1]) for part in projected)
        z, xbc, dt = (recompose(*parts, scan.bound.order) for parts in zip(projected, rows, strict=True))
        return self.to_out[0](invert(self.scan(z, xbc, dt, scan), scan.bound.order))

    def _project(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Gate, [x | B | C] and step sizes, still one row per token."""
        xbc = torch.cat([self.to_v(rows), self.norm_k(self.to_k(rows)), self.norm_q(self.to_q(rows))], dim=-1)
        # Its weights may be wider than the tokens: see `_keep_in_fp32_modules` of the denoiser.
        return self.to_z(rows), xbc, self.to_dt(rows.to(self.to_dt.weight.dtype))
