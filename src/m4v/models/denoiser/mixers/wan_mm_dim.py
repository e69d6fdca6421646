"""The MM-DiM mixer in place of Wan's self-attention, under the names of that attention's weights.

`to_q`, `to_k`, `to_v` and `to_out` become output vector C, input vector B, value x and output matrix, so that LoRA
files and converters find them where they were; RMSNorm over all heads and rotary embedding stay on C and B.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.mixers.step_projection import StepProjection
from m4v.models.denoiser.recomposition.registers import FrameRegisters
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.denoiser.wan_context import WanContext


class WanMMDiMMixer(SelectiveScan):
    """Mamba-2 scan over re-composed text and video tokens, with an output projection of its own.

    The context says along which path.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config.num_attention_heads, config.attention_head_dim, config.mixer, has_head_norm=False)
        width, (_, state_width, _) = config.width, self.splits
        self.to_q = nn.Linear(width, state_width)
        self.to_k = nn.Linear(width, state_width)
        self.to_v = nn.Linear(width, width)
        self.to_z = nn.Linear(width, width)
        self.to_dt = StepProjection(width, self.num_heads)
        # A list, because Wan's attention has its matrix at `to_out.0`.
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        has_norm = config.mixer.qk_norm
        self.norm_q = nn.RMSNorm(state_width, eps=config.eps) if has_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(state_width, eps=config.eps) if has_norm else nn.Identity()
        options = config.recomposition
        self.registers = FrameRegisters(options.num_register_kinds, width) if options.registers else None
        self.reset_parameters()

    def forward(self, tokens: Float[Tensor, "b n d"], context: WanContext) -> Float[Tensor, "b n d"]:
        """Mix text and video tokens, text first; the two copies of a text token are summed before the output matrix."""
        assert context.scan is not None
        registers = tokens.new_empty(0, tokens.shape[-1])
        if self.registers is not None:
            registers = self.registers().to(tokens.dtype)
        mixed = self.mix(
            self._project(tokens), self._project(registers), self.to_dt(tokens), self.to_dt(registers), context.scan
        )
        return self.to_out[0](mixed)

    def _project(self, tokens: Float[Tensor, "*n d"]) -> Float[Tensor, "*n f"]:
        """Gate, value, input vector and output vector side by side, [z | x | B | C]."""
        B, C = self.norm_k(self.to_k(tokens)), self.norm_q(self.to_q(tokens))
        return torch.cat([self.to_z(tokens), self.to_v(tokens), B, C], dim=-1)
