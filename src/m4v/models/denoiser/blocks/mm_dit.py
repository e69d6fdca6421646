"""MM-DiT dual-stream block: text and video keep their own weights and meet in one attention (Fig. 2a, first eight)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.blocks.feed_forward import FeedForward
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.modulation import Modulation, modulate
from m4v.models.denoiser.normalization import HeadNorm
from m4v.ops.attention import attention
from m4v.ops.rope import apply_rotary


class _Stream(nn.Module):
    """One modality's weights of a dual-stream block."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_attention_heads
        self.modulation = Modulation(width, 6)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = HeadNorm(config.attention_head_dim)
        self.norm_k = HeadNorm(config.attention_head_dim)
        self.to_out = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, config.mlp_ratio)

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)) for projection in (self.to_q, self.to_k, self.to_v)
        )
        return self.norm_q(query), self.norm_k(key), value

    def finish(self, tokens: Tensor, mixed: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        _, _, gate_attention, shift, scale, gate = modulation
        # Contiguous, because the library adds the bias of other inputs in a step, and a rounding, of its own.
        tokens = tokens + gate_attention * self.to_out(mixed.contiguous())
        return tokens + gate * self.feed_forward(modulate(tokens, shift, scale))


class MMDiTBlock(nn.Module):
    """Joint attention of two streams, each with its own projections, modulation and feed-forward.

    Arguments bear the names under which diffusers' caching hooks look streams up: text is `encoder_hidden_states`,
    video is `hidden_states`.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.text = _Stream(config)
        self.video = _Stream(config)

    def forward(
        self,
        encoder_hidden_states: Float[Tensor, "b l d"],
        hidden_states: Float[Tensor, "b n d"],
        context: SequenceContext,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b n d"]]:
        """Update both streams; returns (text, video)."""
        text_modulation = self.text.modulation(context.embedding)
        video_modulation = self.video.modulation(context.embedding)
        text = self.text.queries_keys_values(modulate(encoder_hidden_states, *text_modulation[:2]))
        video = self.video.queries_keys_values(modulate(hidden_states, *video_modulation[:2]))
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(text, video, strict=True))
        query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
        mixed = attention(query, key, value, context.attention_mask).flatten(2)
        text_mixed, video_mixed = mixed.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return (
            self.text.finish(encoder_hidden_states, text_mixed, text_modulation),
            self.video.finish(hidden_states, video_mixed, video_modulation),
        )
