"""Softmax self-attention over text and video: the baseline mixer ("Full Attn" of Table 4)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import SharesInput
from m4v.models.denoiser.normalization import HeadNorm
from m4v.ops.rope import apply_rotary


class AttentionMixer(SharesInput):
    """Queries, keys and values with per-head RMSNorm and rotary embedding; masked by document and time."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k = nn.Linear(config.width, config.width)
        self.to_v = nn.Linear(config.width, config.width)
        self.norm_q = HeadNorm(config.attention_head_dim)
        self.norm_k = HeadNorm(config.attention_head_dim)

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Queries, keys and values."""
        return self.to_q, self.to_k, self.to_v

    def forward(
        self, tokens: Float[Tensor, "b n d"], context: SequenceContext, projected: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Mix tokens; `projected` are their shared projections where a block has computed them with its own."""
        parts = self.project(tokens) if projected is None else projected
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in parts)
        query = apply_rotary(self.norm_q(query), context.rotary)
        key = apply_rotary(self.norm_k(key), context.rotary)
        assert context.visibility is not None
        return context.visibility.attend(query, key, value).flatten(2)
