"""What a training step costs before anything is loaded: operations, and the memory of weights and saved activations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from m4v.analysis.denoising_memory import pyramid_inputs
from m4v.analysis.live_memory import FusedAttention, LiveTensors
from m4v.analysis.parameters import meta_denoiser
from m4v.analysis.part_memory import cast_weights
from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.parameters import count_parameters

BACKWARD_FACTOR = 2.0
"""Operations of a backward pass per operation of the forward pass: one product for each of its two arguments."""

# Weights, gradients, two moments and the moving average in float32, and a bfloat16 copy for the products.
_BYTES_PER_TRAINED = 4 + 4 + 8 + 4 + 2


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device.

    Attributes:
        states: Trained weights, gradients, moments, moving average, and the copy in bfloat16 that products read.
        frozen: Weights that are only read.
        activations: What the forward pass of the longest part of a step leaves for the backward pass.
    """

    states: int
    frozen: int
    activations: int

    @property
    def peak(self) -> int:
        """All together; workspaces of kernels and what an allocator holds back come on top."""
        return self.states + self.frozen + self.activations


def state_bytes(num_parameters: int, num_shards: int = 1) -> int:
    """Bytes that trained parameters take on one of the devices that share them."""
    return _BYTES_PER_TRAINED * num_parameters // num_shards


def with_checkpoints(saved: int, share: float, num_blocks: int) -> int:
    """Bytes of saved activations when a share of the blocks is computed again.

    Of such a block only the input stays, which is little beside what it saves, and one block at a time comes back.

    Args:
        saved: Bytes without checkpoints.
        share: Share of the blocks, 0 to 1.
        num_blocks: All blocks.
    """
    return round(saved * (1.0 - share) + (saved / num_blocks if share else 0))


def pyramid_saved_bytes(config: DenoiserConfig, layout: SequenceLayout, rows: int) -> int:
    """Bytes that a forward pass of the pyramid denoiser in bfloat16 leaves for its backward pass."""
    network = meta_denoiser(config)
    return _saved_bytes(network, *pyramid_inputs(config, layout, rows, torch.bfloat16, "meta"))


def wan_saved_bytes(config: WanConfig, grid: tuple[int, int, int], num_text_tokens: int, rows: int) -> int:
    """Bytes that a forward pass of the Wan denoiser in bfloat16 leaves for its backward pass.

    Args:
        grid: Token frames, rows and columns.
        num_text_tokens: Length of the padded prompt.
        rows: Clips.
    """
    sizes = [count * side for count, side in zip(grid, config.patch_size, strict=True)]
    latents = torch.zeros(rows, config.in_channels, *sizes, dtype=torch.bfloat16, device="meta")
    text = torch.zeros(rows, num_text_tokens, config.text_dim, dtype=torch.bfloat16, device="meta")
    return _saved_bytes(meta_denoiser(config), latents, torch.zeros(rows, device="meta"), text)


def _saved_bytes(network: Any, *inputs: Any) -> int:
    cast_weights(network, torch.bfloat16)
    tracker = LiveTensors()
    tracker.ignore((list(network.parameters()), list(network.buffers())))
    tracker.add(inputs)
    with torch.enable_grad(), FusedAttention(), tracker:
        output = network(*inputs)
    del output
    return tracker.peak


def autoencoder_cost(build: Callable[[], Any], num_frames: int, height: int, width: int) -> tuple[int, float, int]:
    """Parameters, operations of a round trip, and bytes it saves for the backward pass, for one clip.

    Args:
        build: Makes the autoencoder; called on the meta device.
        num_frames: Frames of the clip.
        height: Rows of pixels.
        width: Columns of pixels.
    """
    with torch.device("meta"):
        vae = build()
    video = torch.zeros(1, vae_channels(vae), num_frames, height, width, device="meta")
    tracker = LiveTensors()
    tracker.ignore((list(vae.parameters()), list(vae.buffers())))
    with torch.enable_grad(), FlopCounterMode(display=False) as counter, tracker:
        output = vae(video)
    del output
    return count_parameters(vae), float(counter.get_total_flops()), tracker.peak


def vae_channels(vae: Any) -> int:
    """Colour channels that an autoencoder reads."""
    config = getattr(vae, "config", None) or vae.vae.config
    return int(config.get("in_channels", 3))
