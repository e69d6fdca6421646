"""Sizes and choices of the Wan denoiser: the arguments of diffusers' Wan network, and the readings of MM-DiM on it."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.config import MixerConfig, RecompositionConfig, TemporalBranchConfig
from m4v.models.denoiser.mixer_plan import MixerKind, resolve_plan

QK_NORM = "rms_norm_across_heads"


@dataclass(frozen=True, kw_only=True)
class WanRecompositionConfig(RecompositionConfig):
    """Re-composition without a pyramid.

    Attributes:
        register_kinds: "one" learned row before every frame, as all have one resolution, or three "by-role": first
            frame (which stands for one frame of video where the others stand for four), middle, last.
    """

    register_kinds: Literal["one", "by-role"] = "one"

    @property
    def num_register_kinds(self) -> int:
        """Learned rows of one layer."""
        return 1 if self.register_kinds == "one" else 3


@dataclass(frozen=True, kw_only=True)
class WanTemporalBranchConfig(TemporalBranchConfig):
    """Temporal branch of a network that denoises all frames together, so that no frame has to wait for another.

    Attributes:
        causal: A frame sees itself and earlier ones only.
    """

    causal: bool = False


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Wan2.1 text-to-video network whose self-attention layers may be exchanged for MM-DiM mixers.

    The first sixteen fields are the arguments of diffusers' `WanTransformer3DModel`; defaults are the 14B model's.

    Attributes:
        patch_size: Latent frames, rows and columns per token.
        freq_dim: Sine waves of the timestep.
        image_dim: Image conditioning, which this network has not; must be unset, like `added_kv_proj_dim` and
            `pos_embed_seq_len`.
        rope_max_seq_len: Largest number of tokens along one axis.
        mixer_plan: A name of Table 4 ("parallel" excepted), or one kind per layer.
        mixer: State-space layer. `qk_norm` is Wan's own: over all heads, before the convolution, in token order.
        text_path: "carried": a text stream that every scan reads and updates; "read-only": every scan reads the
            projected prompt and drops its outputs; "none": video and registers alone. Cross-attention stays in all.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str | None = QK_NORM
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None
    mixer_plan: str | tuple[str, ...] = "attention-only"
    mixer: MixerConfig = field(default_factory=MixerConfig)
    recomposition: WanRecompositionConfig = field(default_factory=WanRecompositionConfig)
    temporal_branch: WanTemporalBranchConfig = field(default_factory=WanTemporalBranchConfig)
    text_path: Literal["carried", "read-only", "none"] = "carried"

    def __post_init__(self) -> None:
        self._refuse_neighbours()
        sizes = ("num_attention_heads", "attention_head_dim", "in_channels", "text_dim", "freq_dim", "ffn_dim")
        for name in (*sizes, "num_layers", "rope_max_seq_len"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        if not 0 < self.eps < 1:
            raise UserError(f"eps is {self.eps}; expected a small number above 0, such as 1e-6.")
        if min(self.patch_size) < 1:
            raise UserError(f"patch_size is {list(self.patch_size)}; expected three numbers of 1 or more.")
        if self.attention_head_dim % 2 or self.attention_head_dim < 6:
            raise UserError(
                f"attention_head_dim is {self.attention_head_dim}; expected an even number of 6 or more, which rotary "
                "positions share out among time, height and width."
            )
        if self.qk_norm != QK_NORM:
            raise UserError(f"qk_norm is {self.qk_norm!r}; Wan2.1 has {QK_NORM!r} only.")
        self.mixer.check_head_dim(self.attention_head_dim)
        if self.mixer.positions == "added":
            raise UserError('mixer.positions is "added"; on the Wan base, expected "rope" or "none".')
        if "parallel" in self.kinds:
            raise UserError(
                'mixer_plan has "parallel" layers, which need the joint matrix of the pyramid base; on the Wan base, '
                'expected "attention" or "mm_dim".'
            )

    def _refuse_neighbours(self) -> None:
        expected = "this network is Wan2.1 text-to-video (16 input channels, no image inputs). Choose such weights."
        if self.pos_embed_seq_len is not None:
            raise UserError(
                f"pos_embed_seq_len is {self.pos_embed_seq_len}: a Wan2.1 first-last-frame model; {expected}"
            )
        for name in ("image_dim", "added_kv_proj_dim"):
            if getattr(self, name) is not None:
                raise UserError(f"{name} is {getattr(self, name)}: a Wan2.1 image-to-video model; {expected}")
        if self.in_channels == 36 and self.out_channels != 36:
            raise UserError(f"in_channels is 36: a Wan2.1 or Wan2.2 image-to-video model; {expected}")
        if self.in_channels == self.out_channels == 48:
            raise UserError(f"in_channels is 48: the Wan2.2 5B model (text and image to video); {expected}")
        if self.in_channels != self.out_channels:
            raise UserError(
                f"in_channels is {self.in_channels} and out_channels {self.out_channels}: a Wan model with other "
                f"inputs beside the noisy video; {expected}"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def kinds(self) -> tuple[MixerKind, ...]:
        """Mixer kind of every layer."""
        return resolve_plan(self.mixer_plan, self.num_layers)

    @property
    def rope_axes_dims(self) -> tuple[int, int, int]:
        """Channels of a head for time, height and width."""
        side = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * side, side, side

    @property
    def patch_volume(self) -> int:
        """Latent cells per token."""
        return math.prod(self.patch_size)


PRESETS: dict[str, WanConfig] = {
    "wan-debug": WanConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=64,
        mixer_plan="interleaved",
        recomposition=WanRecompositionConfig(scan_paths="aef"),
    ),
    "wan-1.3b": WanConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "wan-14b": WanConfig(),
}


def wan_preset(name: str) -> dict[str, Any]:
    """Constructor arguments of a named size, as plain types.

    Raises:
        UserError: if there is no such size.
    """
    if name not in PRESETS:
        raise UserError(f"There is no Wan size {name!r}; expected one of {', '.join(PRESETS)}.")
    return to_plain(PRESETS[name])


def wan_config(arguments: dict[str, Any]) -> WanConfig:
    """Typed configuration from constructor arguments.

    Raises:
        UserError: on an unknown or invalid setting, or one that only a neighbour of Wan2.1 text-to-video has.
    """
    return from_plain(WanConfig, arguments)
