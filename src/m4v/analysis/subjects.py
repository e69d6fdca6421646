"""What can be described: a whole pipeline by its configurations alone, torch-free; named sizes are here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m4v.core.shapes import Compression
from m4v.models.denoiser import wan_config
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.wan_config import published_defaults


@dataclass(frozen=True, kw_only=True)
class TextEncoderSpec:
    """One text network.

    Attributes:
        class_name: Its class in transformers.
        config: Content of its config.json, or the fields that differ from the class's own.
        num_tokens: Length of a padded prompt.
    """

    class_name: str
    config: Mapping[str, Any]
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class WanVaeSpec:
    """Arguments of diffusers' `AutoencoderKLWan`; its defaults are Wan2.1's."""

    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A pipeline that need not exist.

    Attributes:
        denoiser: Its class tells the base: pyramid, or Wan.
        text_encoders: By name of the part.
        defaults: Video size and steps where the caller says nothing. Wan has one unit, the whole clip: steps are
            `first_steps`.
    """

    denoiser: DenoiserConfig | WanConfig
    vae: CausalVideoVAEConfig | WanVaeSpec
    text_encoders: Mapping[str, TextEncoderSpec]
    defaults: GenerationDefaults

    @property
    def rows_per_step(self) -> int:
        """Samples the denoiser sees per solver step of one video: two with classifier-free guidance."""
        scales = (self.defaults.first_guidance, self.defaults.later_guidance)
        return 2 if any(scale not in (0, 1) for scale in scales) else 1

    @property
    def compression(self) -> Compression:
        """Pixels per latent cell and axis."""
        if isinstance(self.vae, CausalVideoVAEConfig):
            return self.vae.compression
        config = self.vae.config
        return Compression(time=config.get("scale_factor_temporal", 4), space=config.get("scale_factor_spatial", 8))


_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_TOYBOX_VOCABULARY = 256


def _small(name: str, vae: CausalVideoVAEConfig, text: TextEncoderConfig, frames: int, side: int) -> Subject:
    encoder = {
        "vocab_size": _TOYBOX_VOCABULARY,
        "d_model": text.model_dim,
        "d_kv": text.head_dim,
        "d_ff": text.feed_forward_dim,
        "num_layers": text.num_layers,
        "num_heads": text.num_heads,
        "feed_forward_proj": "gated-gelu",
    }
    return Subject(
        denoiser=PRESETS[name],
        vae=vae,
        text_encoders={
            "text_encoder": TextEncoderSpec(class_name="T5EncoderModel", config=encoder, num_tokens=text.max_length)
        },
        defaults=GenerationDefaults(height=side, width=side, num_frames=frames, max_text_length=text.max_length),
    )


def _wan(name: str) -> Subject:
    umt5 = TextEncoderSpec(class_name="UMT5EncoderModel", config={"vocab_size": 256_384, **_XXL}, num_tokens=512)
    return Subject(
        denoiser=wan_config.PRESETS[name],
        vae=WanVaeSpec(),
        text_encoders={"text_encoder": umt5},
        defaults=published_defaults(wan_config.wan_preset(name)),
    )


SUBJECTS: dict[str, Subject] = {
    "debug": _small("debug", CausalVideoVAEConfig.debug(), TextEncoderConfig.debug(), 9, 32),
    "toybox-xs": _small("toybox-xs", CausalVideoVAEConfig.toybox_xs(), TextEncoderConfig.toybox_xs(), 17, 64),
    "toybox-m": _small("toybox-m", CausalVideoVAEConfig.toybox_m(), TextEncoderConfig.toybox_m(), 33, 128),
    "pyramid-2b": Subject(
        denoiser=PRESETS["pyramid-2b"],
        vae=CausalVideoVAEConfig.pyramid_flow(),
        text_encoders={
            "text_encoder": TextEncoderSpec(class_name="CLIPTextModel", config=_CLIP_L, num_tokens=77),
            "text_encoder_2": TextEncoderSpec(
                class_name="T5EncoderModel", config={"vocab_size": 32_128, **_XXL}, num_tokens=128
            ),
        },
        defaults=GenerationDefaults(height=768, width=1280, num_frames=241, fps=24.0, max_text_length=128),
    ),
    "wan-1.3b": _wan("wan-1.3b"),
    "wan-14b": _wan("wan-14b"),
}
"""Sizes that can be described by name; the pyramid sizes with 20 steps per level for the first unit, then 10."""
