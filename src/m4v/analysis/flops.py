"""Floating-point operations of one denoiser call, from shapes (a multiply-add counts as 2).

Attention counts all pairs of tokens, as the paper's Table 4 does. Mixer costs include a mixer's share of the joint
output matrix.
"""

from dataclasses import dataclass

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig


@dataclass(frozen=True)
class CallFlops:
    """Cost of one call for one sample.

    Attributes:
        mixers: Attention, scan and temporal branch of all layers: what Table 4 counts.
        rest: Feed-forward layers, modulations and embedders.
    """

    mixers: float
    rest: float

    @property
    def total(self) -> float:
        """All operations."""
        return self.mixers + self.rest


def attention_flops(num_tokens: int, width: int) -> float:
    """Scores and values over all pairs, four square projections."""
    return 4.0 * num_tokens**2 * width + 8.0 * num_tokens * width**2


def scan_flops(config: DenoiserConfig, layout: SequenceLayout) -> float:
    """Projection, convolution, chunked SSD and output share of one MM-DiM mixer."""
    width, heads, head = config.width, config.num_attention_heads, config.attention_head_dim
    state = config.mixer.state_dim or head
    tokens = layout.num_text_tokens + layout.num_video_tokens
    scanned = tokens + layout.num_text_tokens * config.recomposition.text_at_both_ends
    scanned += len(layout.frames) * config.recomposition.registers
    convolved = width + 2 * heads * state
    projection = 2.0 * tokens * width * (width + convolved + heads) + 2.0 * tokens * width**2
    conv = 2.0 * scanned * convolved * config.mixer.conv_width
    chunk = config.mixer.chunk_size
    return projection + conv + scanned * heads * (2.0 * chunk * (state + head) + 4.0 * state * head)


def temporal_branch_flops(config: DenoiserConfig, layout: SequenceLayout) -> float:
    """Three projections of the pooled tokens and attention over time tokens."""
    last = layout.frames[-1]
    positions = last.num_tokens // 4**last.level
    times = layout.num_history_frames + layout.num_noisy_frames * 4**last.level
    return 6.0 * times * positions * config.width**2 + 4.0 * times**2 * positions * config.width


def call_flops(config: DenoiserConfig, layout: SequenceLayout) -> CallFlops:
    """Cost of one call on one sample with this layout."""
    tokens = layout.num_text_tokens + layout.num_video_tokens
    attention, scan = attention_flops(tokens, config.width), scan_flops(config, layout)
    branch = temporal_branch_flops(config, layout) if config.temporal_branch.enabled else 0.0
    mixers = config.num_dual_layers * attention
    # In a parallel block both outputs share one joint matrix; its share is counted once, with the attention.
    shared = 2.0 * tokens * config.width**2
    cost = {"attention": attention, "mm_dim": scan + branch, "parallel": attention + scan - shared}
    mixers += sum(cost[kind] for kind in config.kinds)
    layers = config.num_dual_layers + config.num_single_layers
    feed_forward = 4.0 * config.mlp_ratio * tokens * config.width**2 * layers
    modulation = 2.0 * config.width**2 * (12 * config.num_dual_layers + 3 * config.num_single_layers)
    # A patch goes in through one matrix and comes out through another.
    patch_dim = config.in_channels * config.patch_size**2
    inputs = layout.num_text_tokens * config.text_dim + 2 * layout.num_video_tokens * patch_dim
    return CallFlops(mixers, feed_forward + modulation + 2.0 * config.width * inputs)
