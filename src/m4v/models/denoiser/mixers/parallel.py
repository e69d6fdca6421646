"""Attention and scan side by side in one block ("Parallel" of Table 4)."""

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer


class ParallelMixer(nn.Module):
    """Sum of both mixers' outputs, before the joint matrix: the reading that the printed parameter count implies."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.attention = AttentionMixer(config)
        self.mm_dim = MMDiMMixer(config)

    def forward(self, tokens: Float[Tensor, "b n d"], context: SequenceContext) -> Float[Tensor, "b n d"]:
        return self.attention(tokens, context) + self.mm_dim(tokens, context)
