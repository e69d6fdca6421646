"""The Wan denoiser: Wan2.1's text-to-video network with any layer's self-attention exchanged for an MM-DiM mixer.

With the mixer plan "attention-only" it computes, bit for bit, what diffusers' `WanTransformer3DModel` computes. There
is no pyramid and no autoregression: all frames are denoised together (Sec. 4, "M4V (Wan2.1)").
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput

# Pipelines find a component's loading methods only if `ModelMixin` is a name of the module that defines its class.
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils import apply_lora_scale
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.models.denoiser.blocks.wan import WanM4VBlock
from m4v.models.denoiser.caching import register_blocks
from m4v.models.denoiser.conditions import ReusesConditions
from m4v.models.denoiser.wan_config import QK_NORM, wan_config
from m4v.models.denoiser.wan_context import real_text, wan_context


class WanM4VTransformer3DModel(ReusesConditions, WanTransformer3DModel):
    """Predicts the velocity of a whole clip from its noisy latents, prompt and timestep.

    The arguments are those of `WanConfig` (see there); nested settings are given as dictionaries.

    Example:
        >>> model = WanM4VTransformer3DModel.from_pretrained("Wan2.1-T2V-1.3B-Diffusers", subfolder="transformer")
        >>> velocity = model(latents, timestep, prompt_embeds).sample
    """

    _no_split_modules = ["WanM4VBlock"]  # noqa: RUF012 - the library reads lists here
    _repeated_blocks = ["WanM4VBlock"]  # noqa: RUF012
    # Float32 after loading in any precision, and left out by every quantiser: a step size is an exponent of the state.
    _keep_in_fp32_modules = [  # noqa: RUF012
        *WanTransformer3DModel._keep_in_fp32_modules,
        *("A_log", "dt_bias", "D_skip", "to_dt"),
    ]
    # Casting goes by modules: parameters that a mixer itself holds are never cast, and named here for completeness.
    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        *("A_log", "dt_bias", "D_skip", "to_dt", "conv_weight", "conv_bias", "registers"),
    ]
    # The stock plan cuts the sequence into one part per device; a scan would have to pass its state from part to part.
    _cp_plan = None

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = QK_NORM,
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        mixer_plan: str | Sequence[str] = "attention-only",
        mixer: dict[str, Any] | None = None,
        recomposition: dict[str, Any] | None = None,
        temporal_branch: dict[str, Any] | None = None,
        text_path: str = "carried",
    ) -> None:
        given = {key: value for key, value in self.config.items() if not key.startswith("_") and value is not None}
        settings = wan_config(given)
        # Layers are ours, so the parent builds none (and has to be told afterwards how many there are).
        super().__init__(
            patch_size=settings.patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            rope_max_seq_len=rope_max_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        self.settings = settings
        self.blocks = nn.ModuleList(WanM4VBlock(settings, layer) for layer in range(num_layers))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load weights; a folder of stock Wan2.1 weights gives the attention-only network.

        Arguments are those of diffusers' method, and any field of the configuration.

        Raises:
            UserError: if the weights lack tensors that the mixer plan asks for, or have some that it has no place for:
                neither random nor dropped weights go unnoticed.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        _check_loaded(pretrained_model_name_or_path, model, info)
        return (model, info) if wants_info else model

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b"],
        encoder_hidden_states: Float[Tensor, "b l e"],
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        encoder_attention_mask: Bool[Tensor, "b l"] | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity of a clip.

        Args:
            hidden_states: Noisy latents; sizes must be multiples of the patch size.
            timestep: Scheduler units, 0 to 1000; one per sample.
            encoder_hidden_states: Encoded prompts, padded with zero rows (512 in all for released weights).
            encoder_hidden_states_image: Not for this network; there so that pipelines may pass None.
            attention_kwargs: `{"scale": s}` scales LoRA layers.
            encoder_attention_mask: True on real text, which comes first; read from the zero rows if absent. It serves
                the scans; cross-attention sees padding too, as it was trained to.

        Raises:
            UserError: if a size is no multiple of the patch size or too large, or on inputs of Wan models other than
                Wan2.1 text-to-video.
        """
        grid = self._token_grid(hidden_states)
        if timestep.ndim != 1:
            raise UserError(
                f"timestep has shape {list(timestep.shape)}: one per token, as in Wan2.2 (text and image to video); "
                "this network is Wan2.1 text-to-video. Give one timestep per sample."
            )
        if encoder_hidden_states_image is not None:
            raise UserError(
                "encoder_hidden_states_image is given, as in Wan2.1 image-to-video; this network is Wan2.1 "
                "text-to-video. Leave it out."
            )
        rotary_emb = self._recall(("rotary", grid), [], lambda: self.rope(hidden_states))
        context = None
        if "mm_dim" in self.settings.kinds:
            sources = [encoder_hidden_states, *([] if encoder_attention_mask is None else [encoder_attention_mask])]
            context = self._recall(
                ("context", grid),
                sources,
                lambda: wan_context(self.settings, grid, _text_mask(encoder_hidden_states, encoder_attention_mask)),
            )

        tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        prompt = self._recall(
            "prompt", [encoder_hidden_states], lambda: self.condition_embedder.text_embedder(encoder_hidden_states)
        )
        # The library embeds prompts together with timesteps; given no rows of the former it leaves them alone.
        embedding, modulation, _, _ = self.condition_embedder(timestep, encoder_hidden_states[:, :0])
        modulation = modulation.unflatten(1, (6, -1))
        text = prompt
        for layer, block in enumerate(self.blocks):
            along_path = context and context.along(self.settings.recomposition.scan_path(layer))
            tokens, text = self._run(block, tokens, text, prompt, modulation, rotary_emb, along_path)

        # With layers on several devices, the last one's tokens decide where the head is computed.
        table = self.scale_shift_table.to(embedding.device) + embedding.unsqueeze(1)
        shift, scale = table.to(tokens.device).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        velocity = self._unpatchify(self.proj_out(tokens), grid)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def enable_cache(self, config: Any) -> None:
        """Reuse results of blocks between solver steps, as `config` says.

        Args:
            config: A cache of diffusers, for example `FirstBlockCacheConfig(threshold=0.1)`.
        """
        register_blocks((WanM4VBlock,), video=0, text=1)
        super().enable_cache(config)

    def _token_grid(self, latents: Tensor) -> tuple[int, int, int]:
        """Token frames, rows and columns of a clip."""
        sizes, patch, longest = latents.shape[2:], self.settings.patch_size, self.settings.rope_max_seq_len
        for name, size, side in zip(("frames", "rows", "columns"), sizes, patch, strict=True):
            if not 0 < size <= longest * side or size % side:
                raise UserError(
                    f"Latents have {size} {name}; expected a multiple of the patch size {side}, at most "
                    f"{longest * side}. Choose another video size (for Wan, height and width in steps of "
                    f"{8 * patch[-1]} pixels)."
                )
        frames, rows, columns = (size // side for size, side in zip(sizes, patch, strict=True))
        return frames, rows, columns

    def _unpatchify(self, patches: Float[Tensor, "b n o"], grid: tuple[int, int, int]) -> Float[Tensor, "b c t h w"]:
        """Bring the head's outputs back to latents; within a patch, the channel varies fastest."""
        split = patches.unflatten(1, grid).unflatten(-1, (*self.settings.patch_size, -1))
        return rearrange(split, "b t h w i j k c -> b c (t i) (h j) (w k)")

    def _run(self, block: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


def _text_mask(embeddings: Tensor, given: Tensor | None) -> Tensor:
    if given is None:
        return real_text(embeddings)
    if given.shape != embeddings.shape[:2]:
        raise UserError(
            f"encoder_attention_mask has shape {list(given.shape)}; expected {list(embeddings.shape[:2])}, one entry "
            "per row of encoder_hidden_states."
        )
    mask = given.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise UserError("encoder_attention_mask has padding before real text; expected all padding at the end.")
    return mask


def _check_loaded(path: str | os.PathLike[str], model: nn.Module, info: dict[str, list[str]]) -> None:
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if getattr(model, "hf_quantizer", None) is not None:
        unexpected = []  # scales and zero points of quantised matrices count as unexpected
    problems = []
    if missing:
        problems.append(f"lack {_listed(missing)} that the mixer plan asks for")
    if unexpected:
        problems.append(f"have {_listed(unexpected)} for which the mixer plan has no place")
    if problems:
        raise UserError(
            f"The weights in {path} {' and '.join(problems)}. Open them with the mixer plan they were saved with; "
            "`m4v convert wan SRC DST --to-mamba` gives attention weights the tensors of MM-DiM layers."
        )


def _listed(names: list[str], shown: int = 10) -> str:
    more = ", ..." if len(names) > shown else ""
    return f"{len(names)} tensors ({', '.join(names[:shown])}{more})"
