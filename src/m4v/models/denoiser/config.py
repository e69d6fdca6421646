"""Sizes and choices of the pyramid denoiser; every reading the paper leaves open is a field here with its default."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.mixer_plan import MixerKind, resolve_plan


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """State-space layer of an MM-DiM block (Sec. 3.3).

    Attributes:
        conv_width: Taps of the causal convolution on x, B and C; 0 leaves convolution and its SiLU out.
        conv_activation: What follows the convolution: "silu" as in Mamba-2, or "none", with which a model converted
            from attention (Appendix D.2) begins with the very products of queries and keys it had.
        qk_norm: Per-head RMSNorm on B and C after conv and SiLU, where the attention base has it on keys and queries.
        positions: "rope" rotates B and C by each token's own position; "added" adds sine waves to the tokens before
            projection (first row of Table 3, other reading); "none" leaves order to the scan.
        discretisation: "euler" as public Mamba code, "zoh" as eq. (2).
        state_dim: Width N of B and C per head; unset means the head width, which initialisation from attention needs.
            Rotary positions need it too.
        chunk_size: Tokens per set of matrix products; speed only.
    """

    conv_width: int = 4
    conv_activation: Literal["silu", "none"] = "silu"
    qk_norm: bool = True
    positions: Literal["rope", "added", "none"] = "rope"
    discretisation: Literal["euler", "zoh"] = "euler"
    state_dim: int | None = None
    chunk_size: int = 64

    def __post_init__(self) -> None:
        if self.conv_width < 0:
            raise UserError(f"mixer.conv_width is {self.conv_width}; expected 0 (no convolution) or more taps.")
        if self.chunk_size < 1:
            raise UserError(f"mixer.chunk_size is {self.chunk_size}; expected 1 or more tokens.")
        if self.state_dim is not None and self.state_dim < 1:
            raise UserError(f"mixer.state_dim is {self.state_dim}; expected 1 or more, or none for the head width.")

    def check_head_dim(self, head_dim: int) -> None:
        """Check that rotary positions, which turn B and C by the rotations of a head, fit the state.

        Raises:
            UserError: if they do not.
        """
        state_dim = self.state_dim or head_dim
        if self.positions == "rope" and state_dim != head_dim:
            raise UserError(
                f"mixer.state_dim is {state_dim}, but rotary positions need the head width {head_dim}; "
                'set mixer.positions to "added" or "none", or leave state_dim out.'
            )


@dataclass(frozen=True, kw_only=True)
class RecompositionConfig:
    """MM-token re-composition (Sec. 3.3, Fig. 2c, Table 3).

    Attributes:
        text_at_both_ends: Table 3 "Text": prompts before and after the video, outputs summed; off = once, in front.
        registers: Table 3 "Vis": a learned row before every frame, one kind per pyramid level.
        scan_paths: Paths by layer, repeated as needed; letters of Fig. 6.
        continuous: Boustrophedon lines; off = plain raster lines.
    """

    text_at_both_ends: bool = True
    registers: bool = True
    scan_paths: str = "abcdefgh"
    continuous: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.scan_paths) - set("abcdefgh")
        if unknown or not self.scan_paths:
            raise UserError(f"scan_paths is {self.scan_paths!r}; expected letters from a to h (Fig. 6).")

    def scan_path(self, layer: int) -> str:
        """Letter of one layer's path (Appendix A.1: one per layer, alternating)."""
        return self.scan_paths[layer % len(self.scan_paths)]


@dataclass(frozen=True, kw_only=True)
class TemporalBranchConfig:
    """Attention over time beside the scan (Sec. 3.3 "Temporal Branch", Table 3 "Temp").

    Attributes:
        enabled: Off removes the branch and its parameters.
        causal: History frames see earlier ones only; noisy tokens always see all.
        mixer: "attention", or "ssd": a scan over time (the alternative the paper's limitations name).
    """

    enabled: bool = True
    causal: bool = True
    mixer: Literal["attention", "ssd"] = "attention"

    def __post_init__(self) -> None:
        if self.mixer == "ssd" and not self.causal:
            raise UserError('temporal_branch.mixer is "ssd" and causal is off; a scan over time is always causal.')


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Network of Fig. 2a.

    Attributes:
        patch_size: Latent cells per token side.
        text_dim: Width of the prompt's sequence embedding.
        pooled_text_dim: Width of the prompt's pooled embedding.
        rope_axes_dims: Channels of a head for time, height and width.
        mixer_plan: A name of Table 4, or one kind per single-stream block.
        dual_mixer: What mixes the two streams of the dual-stream blocks: "attention" as in the paper, or "mm_dim": one
            scan over both, each stream with projections of its own (the future work of Appendix A.2). Dual-stream
            block l scans along the path of layer l, as single-stream block l does. These blocks have no temporal
            branch: A.2 replaces the attention alone, and the single-stream blocks behind them have one each.
        temporal_causal_attention: Frames attend to themselves and earlier frames only (Sec. 3.1).
        round_timesteps_to_bfloat16: Round timesteps when the latents are bfloat16, as the released Pyramid-Flow
            pipeline does; full precision is never rounded.
    """

    in_channels: int = 16
    patch_size: int = 2
    num_attention_heads: int = 30
    attention_head_dim: int = 64
    num_dual_layers: int = 8
    num_single_layers: int = 16
    mlp_ratio: int = 4
    text_dim: int = 4096
    pooled_text_dim: int = 768
    rope_axes_dims: tuple[int, ...] = (16, 24, 24)
    num_levels: int = 3
    mixer_plan: str | tuple[str, ...] = "full"
    dual_mixer: Literal["attention", "mm_dim"] = "attention"
    mixer: MixerConfig = field(default_factory=MixerConfig)
    recomposition: RecompositionConfig = field(default_factory=RecompositionConfig)
    temporal_branch: TemporalBranchConfig = field(default_factory=TemporalBranchConfig)
    temporal_causal_attention: bool = True
    round_timesteps_to_bfloat16: bool = False

    def __post_init__(self) -> None:
        sizes = ("in_channels", "patch_size", "num_attention_heads", "attention_head_dim", "mlp_ratio", "num_levels")
        for name in (*sizes, "text_dim", "pooled_text_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        if sum(self.rope_axes_dims) != self.attention_head_dim or any(dim % 2 for dim in self.rope_axes_dims):
            raise UserError(
                f"rope_axes_dims is {list(self.rope_axes_dims)}; expected even numbers that sum to "
                f"attention_head_dim = {self.attention_head_dim}."
            )
        self.mixer.check_head_dim(self.attention_head_dim)
        resolve_plan(self.mixer_plan, self.num_single_layers)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def kinds(self) -> tuple[MixerKind, ...]:
        """Mixer kind of every single-stream block."""
        return resolve_plan(self.mixer_plan, self.num_single_layers)

    def scan_path(self, layer: int) -> str:
        """Letter of the path of one single-stream block, or of one dual-stream block if these scan."""
        return self.recomposition.scan_path(layer)

    @property
    def scanned_paths(self) -> tuple[str, ...]:
        """Letter of the path of every block that scans, dual-stream blocks first."""
        num_dual_scans = self.num_dual_layers if self.dual_mixer == "mm_dim" else 0
        single_scans = [layer for layer, kind in enumerate(self.kinds) if kind != "attention"]
        return tuple(self.scan_path(layer) for layer in (*range(num_dual_scans), *single_scans))


_TOYBOX_XS = DenoiserConfig(
    patch_size=1,
    num_attention_heads=6,
    attention_head_dim=32,
    num_dual_layers=2,
    num_single_layers=4,
    text_dim=128,
    pooled_text_dim=128,
    rope_axes_dims=(8, 12, 12),
    mixer=MixerConfig(chunk_size=32),  # the width of a head: where the two costs of a chunk balance
    # Four layers see four of the eight paths: these start at all four corners and use both inner axes.
    recomposition=RecompositionConfig(scan_paths="aebf"),
)

PRESETS: dict[str, DenoiserConfig] = {
    "debug": DenoiserConfig(
        in_channels=4,
        patch_size=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_dual_layers=1,
        num_single_layers=2,
        text_dim=16,
        pooled_text_dim=16,
        rope_axes_dims=(4, 2, 2),
        recomposition=RecompositionConfig(scan_paths="ae"),
    ),
    "toybox-xs": _TOYBOX_XS,
    "toybox-m": replace(
        _TOYBOX_XS,
        num_single_layers=6,
        text_dim=192,
        pooled_text_dim=192,
        recomposition=RecompositionConfig(scan_paths="aebfcg"),
    ),
    "pyramid-2b": DenoiserConfig(),
}


def denoiser_preset(name: str) -> dict[str, Any]:
    """Constructor arguments of a named size, as plain types.

    Raises:
        UserError: if there is no such size.
    """
    if name not in PRESETS:
        raise UserError(f"There is no denoiser size {name!r}; expected one of {', '.join(PRESETS)}.")
    return to_plain(PRESETS[name])


def denoiser_config(arguments: dict[str, Any]) -> DenoiserConfig:
    """Typed configuration from constructor arguments.

    Raises:
        UserError: on an unknown or invalid setting.
    """
    return from_plain(DenoiserConfig, arguments)
