"""MM-DiT dual-stream block: text and video keep their own weights and meet in one attention (Fig. 2a, first eight)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.blocks.dual_stream import DualStreamBlock, Stream
from m4v.models.denoiser.blocks.feed_forward import FeedForward
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import SharesInput
from m4v.models.denoiser.modulation import Modulation, modulate
from m4v.models.denoiser.normalization import HeadNorm
from m4v.ops.rope import apply_rotary


class _AttentionStream(Stream, SharesInput):
    """A stream with queries, keys and values."""

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

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Queries, keys and values."""
        return self.to_q, self.to_k, self.to_v

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in self.project(tokens))
        return self.norm_q(query), self.norm_k(key), value


class MMDiTBlock(DualStreamBlock):
    """Joint attention of two streams, each with its own projections, modulation and feed-forward.

    Arguments bear the names under which diffusers' caching hooks look streams up: text is `encoder_hidden_states`,
    video is `hidden_states`.
    """

    text: _AttentionStream
    video: _AttentionStream

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.text = _AttentionStream(config)
        self.video = _AttentionStream(config)

    def forward(
        self,
        encoder_hidden_states: Float[Tensor, "b l d"],
        hidden_states: Float[Tensor, "b n d"],
        context: SequenceContext,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b n d"]]:
        """Update both streams; returns (text, video)."""
        text_modulation, video_modulation = self.modulations(context)
        text = self.text.queries_keys_values(modulate(encoder_hidden_states, *text_modulation[:2]))
        video = self.video.queries_keys_values(modulate(hidden_states, *video_modulation[:2]))
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(text, video, strict=True))
        query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
        assert context.visibility is not None
        mixed = context.visibility.attend(query, key, value).flatten(2)
        text_mixed, video_mixed = mixed.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return (
            self.text.finish(encoder_hidden_states, text_mixed, text_modulation),
            self.video.finish(hidden_states, video_mixed, video_modulation),
        )
