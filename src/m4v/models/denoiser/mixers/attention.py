"""Softmax self-attention over text and video: the baseline mixer ("Full Attn" of Table 4)."""

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.normalization import HeadNorm
from m4v.ops.attention import attention
from m4v.ops.rope import apply_rotary


class AttentionMixer(nn.Module):
    """Queries, keys and values with per-head RMSNorm and rotary embedding; masked by document and time."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k = nn.Linear(config.width, config.width)
        self.to_v = nn.Linear(config.width, config.width)
        self.norm_q = HeadNorm(config.attention_head_dim)
        self.norm_k = HeadNorm(config.attention_head_dim)

    def forward(self, tokens: Float[Tensor, "b n d"], context: SequenceContext) -> Float[Tensor, "b n d"]:
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)) for projection in (self.to_q, self.to_k, self.to_v)
        )
        query = apply_rotary(self.norm_q(query), context.rotary)
        key = apply_rotary(self.norm_k(key), context.rotary)
        return attention(query, key, value, context.attention_mask).flatten(2)
