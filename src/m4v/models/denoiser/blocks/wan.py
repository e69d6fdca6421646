"""Wan block: self-attention or the MM-DiM mixer, then cross-attention, then feed-forward."""

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.mixers.wan_mm_dim import WanMMDiMMixer
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.denoiser.wan_context import WanContext
from m4v.models.denoiser.wan_temporal_branch import WanTemporalBranch


class WanM4VBlock(WanTransformerBlock):
    """One layer of the Wan denoiser; with an attention mixer, operation by operation that of diffusers.

    Layer norms, modulation and gated additions are computed in float32, and each result rounded to the stream's dtype.

    Args:
        config: Network configuration.
        layer: Which layer this is; the mixer plan says what it holds.
    """

    def __init__(self, config: WanConfig, layer: int) -> None:
        super().__init__(
            config.width,
            config.ffn_dim,
            config.num_attention_heads,
            config.qk_norm,
            config.cross_attn_norm,
            config.eps,
        )
        self.scans = config.kinds[layer] == "mm_dim"
        self.carries_text = config.text_path == "carried"
        self.temporal_branch: WanTemporalBranch | None = None
        if self.scans:
            self.attn1 = WanMMDiMMixer(config)
            if config.temporal_branch.enabled:
                self.temporal_branch = WanTemporalBranch(config)

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        encoder_hidden_states: Float[Tensor, "b l d"],
        prompt: Float[Tensor, "b l d"],
        temb: Float[Tensor, "b 6 d"],
        rotary_emb: tuple[Tensor, Tensor],
        context: WanContext | None,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b l d"]]:
        """Update the video tokens and, in MM-DiM layers, the carried text.

        The first two arguments bear the names, and results the order, that diffusers' caching hooks look for.

        Args:
            hidden_states: Video tokens.
            encoder_hidden_states: Carried text, which scans read and update.
            prompt: Projected prompt: keys and values of cross-attention in every layer.
            temb: Timestep's share of the six modulation rows.
            rotary_emb: Cosines and sines of the attention layers.
            context: Layout and scan orders of the MM-DiM layers.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + temb.float()).chunk(6, dim=1)

        modulated = _modulated(self.norm1, hidden_states, shift, scale)
        if not self.scans:
            residual = self.attn1(modulated, None, None, rotary_emb) * gate
        else:
            assert context is not None
            text = encoder_hidden_states[:, : context.layout.num_text_tokens]
            tokens = torch.cat([_modulated(self.norm1, text, shift, scale), modulated], dim=1)
            text_mixed, mixed = self.attn1(tokens, context).split([text.shape[1], modulated.shape[1]], dim=1)
            residual = mixed * gate
            if self.temporal_branch is not None:
                residual = residual + self.temporal_branch(modulated, context)
            if self.carries_text:
                encoder_hidden_states = _added(text, text_mixed * gate)
        hidden_states = _added(hidden_states, residual)

        queries = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(queries, prompt, None, None)

        widened = self.ffn(_modulated(self.norm3, hidden_states, ffn_shift, ffn_scale))
        return _added(hidden_states, widened.float() * ffn_gate), encoder_hidden_states


def _modulated(norm: nn.Module, stream: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return (norm(stream.float()) * (1 + scale) + shift).type_as(stream)


def _added(stream: Tensor, residual: Tensor) -> Tensor:
    return (stream.float() + residual).type_as(stream)
