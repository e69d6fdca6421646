"""Attention and scan side by side in one block ("Parallel" of Table 4)."""

from collections.abc import Sequence

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

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Maps of the block's input, if both mixers read it as it is."""
        scan_projections = self.mm_dim.shared_projections()
        return (*self.attention.shared_projections(), *scan_projections) if scan_projections else ()

    def forward(
        self, tokens: Float[Tensor, "b n d"], context: SequenceContext, projected: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Mix tokens; `projected` are their shared projections where a block has computed them with its own."""
        if projected is None:
            return self.attention(tokens, context) + self.mm_dim(tokens, context)
        *attended, scanned = projected
        return self.attention(tokens, context, attended) + self.mm_dim(tokens, context, [scanned])
