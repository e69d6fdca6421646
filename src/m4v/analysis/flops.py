"""Floating-point operations of the pyramid denoiser, from shapes (a multiply-add counts as 2).

Attention counts all pairs of tokens, as the paper's Table 4 does. Mixer costs include a mixer's share of the joint
output matrix. Checked against torch's own counter on small networks.
"""

from dataclasses import dataclass

from m4v.analysis.mixer_flops import attention_scores_flops, projection_flops, ssd_flops, temporal_branch_flops
from m4v.analysis.tokens import unit_layout
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import DenoiserConfig

_TIMESTEP_FEATURES = 256  # sines and cosines that a timestep becomes


@dataclass(frozen=True)
class CallFlops:
    """Cost of one call for one sample, or of all calls of a video.

    Attributes:
        mixers: Attention, scan and temporal branch of all layers: what Table 4 counts.
        rest: Feed-forward layers, cross-attention, modulations and embedders.
    """

    mixers: float
    rest: float

    @property
    def total(self) -> float:
        """All operations."""
        return self.mixers + self.rest

    def __add__(self, other: "CallFlops") -> "CallFlops":
        return CallFlops(self.mixers + other.mixers, self.rest + other.rest)

    def __mul__(self, times: float) -> "CallFlops":
        return CallFlops(times * self.mixers, times * self.rest)


@dataclass(frozen=True)
class LayerMixerFlops:
    """Cost of the mixer of one layer, by kind, for one sample: the A, M and T that Table 4's rows are sums of.

    Attributes:
        attention: Query, key, value and output projections, scores and values.
        scan: Projections, chunked scan and output share of an MM-DiM mixer, without its temporal branch.
        temporal_branch: Projections of the time tokens and attention (or a scan) over them.
        output: What a parallel block saves by putting both mixers through one output matrix.
    """

    attention: float
    scan: float
    temporal_branch: float
    output: float

    def of_dual_stream(self, kind: str) -> float:
        """Cost of a dual-stream block's mixer: "attention", or "mm_dim", which has no temporal branch.

        A matrix per modality costs what one for all tokens does, and registers are projected once, as video.
        """
        return self.attention if kind == "attention" else self.scan

    def of_kind(self, kind: str, has_branch: bool) -> float:
        """Cost of a single-stream block's mixer: "attention", "mm_dim" or "parallel"."""
        if kind == "attention":
            return self.attention
        if kind == "parallel":
            return self.attention + self.scan - self.output
        return self.scan + self.temporal_branch * has_branch


def layer_mixer_flops(config: DenoiserConfig, layout: SequenceLayout) -> LayerMixerFlops:
    """Cost of each kind of mixer on one sample with this layout."""
    width, tokens = config.width, layout.num_text_tokens + layout.num_video_tokens
    output = projection_flops(tokens, width, width)
    return LayerMixerFlops(
        attention=attention_scores_flops(tokens, tokens, width) + 3 * output + output,
        scan=_scan_flops(config, layout) + output,
        temporal_branch=_temporal_branch_flops(config, layout),
        output=output,
    )


def _scan_flops(config: DenoiserConfig, layout: SequenceLayout) -> float:
    width, heads, head = config.width, config.num_attention_heads, config.attention_head_dim
    state = config.mixer.state_dim or head
    tokens = layout.num_text_tokens + layout.num_video_tokens
    registers = config.recomposition.registers
    scanned = tokens + layout.num_text_tokens * config.recomposition.text_at_both_ends + len(layout.frames) * registers
    projected = tokens + config.num_levels * registers
    # Rows of the projection: gate z and value x, B and C, step sizes.
    projection = projection_flops(projected, width, 2 * width + 2 * heads * state + heads)
    return projection + ssd_flops(scanned, heads, head, state, config.mixer.chunk_size)


def _temporal_branch_flops(config: DenoiserConfig, layout: SequenceLayout) -> float:
    last = layout.frames[-1]
    positions = last.num_tokens // 4**last.level
    times = layout.num_history_frames + layout.num_noisy_frames * 4**last.level
    mixer = config.temporal_branch.mixer
    return temporal_branch_flops(times, positions, config.num_attention_heads, config.attention_head_dim, mixer)


def call_flops(config: DenoiserConfig, layout: SequenceLayout) -> CallFlops:
    """Cost of one call on one sample with this layout."""
    width, tokens = config.width, layout.num_text_tokens + layout.num_video_tokens
    layer = layer_mixer_flops(config, layout)
    mixers = config.num_dual_layers * layer.of_dual_stream(config.dual_mixer)
    mixers += sum(layer.of_kind(kind, config.temporal_branch.enabled) for kind in config.kinds)
    num_layers = config.num_dual_layers + config.num_single_layers
    feed_forward = 2 * projection_flops(tokens, width, config.mlp_ratio * width) * num_layers
    # Six vectors for each of two streams, three for one stream, two before the head; one row per sample.
    modulations = 12 * config.num_dual_layers + 3 * config.num_single_layers + 2
    conditioning = projection_flops(1, width, modulations * width)
    for source in (_TIMESTEP_FEATURES, config.pooled_text_dim):
        conditioning += projection_flops(1, source, width) + projection_flops(1, width, width)
    # A patch goes in through one matrix, and a noisy one comes out through another.
    patch_dim = config.in_channels * config.patch_size**2
    noisy = layout.num_video_tokens - layout.num_history_tokens
    ends = projection_flops(layout.num_text_tokens, config.text_dim, width)
    ends += projection_flops(layout.num_video_tokens + noisy, patch_dim, width)
    return CallFlops(mixers, feed_forward + conditioning + ends)


def video_flops(
    config: DenoiserConfig,
    latent: LatentShape,
    *,
    num_text_tokens: int,
    first_steps: tuple[int, ...],
    later_steps: tuple[int, ...],
    rows_per_call: int = 2,
) -> CallFlops:
    """Cost of all denoiser calls of one video; text encoders and VAE are not part of it.

    Args:
        latent: Latent size at the finest level.
        num_text_tokens: Length of the padded prompt.
        first_steps: Solver steps of unit 0 per pyramid level, coarsest first.
        later_steps: Solver steps of every later unit.
        rows_per_call: 2 with classifier-free guidance, else 1.
    """
    cost = CallFlops(0.0, 0.0)
    for unit in range(latent.num_units):
        for level, steps in enumerate(later_steps if unit else first_steps):
            layout = unit_layout(config, latent, unit, level, num_text_tokens)
            cost += call_flops(config, layout) * (steps * rows_per_call)
    return cost
