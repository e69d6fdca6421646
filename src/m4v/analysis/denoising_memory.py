"""Activations of the longest denoiser call, from a run on the meta device.

All layers of a kind need the same, one after another, so one layer of each kind stands for all of them.
"""

from dataclasses import replace
from typing import Any

import torch

from m4v.analysis.live_memory import peak_bytes
from m4v.analysis.parameters import meta_denoiser
from m4v.analysis.part_memory import cast_weights
from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.wan_config import WanConfig


def pyramid_activations(config: DenoiserConfig, layout: SequenceLayout, *, batch_size: int, dtype: torch.dtype) -> int:
    """Most bytes that tensors of a call occupy at once, inputs included.

    Args:
        batch_size: Rows of the call; guidance takes two per video.
    """
    kinds = tuple(dict.fromkeys(config.kinds))
    thin = replace(config, num_dual_layers=min(1, config.num_dual_layers), num_single_layers=len(kinds))
    return _peak(replace(thin, mixer_plan=kinds), pyramid_inputs(config, layout, batch_size, dtype, "meta"), dtype)


def pyramid_inputs(
    config: DenoiserConfig, layout: SequenceLayout, batch_size: int, dtype: torch.dtype, device: str
) -> tuple[list[LevelClip], torch.Tensor, TextConditioning]:
    """Arguments of a pyramid denoiser's call with this layout; contents are zero."""
    patch, length = config.patch_size, layout.num_text_tokens

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

    clips = [
        LevelClip(zeros(config.in_channels, 1, patch * frame.height, patch * frame.width), frame.level)
        for frame in layout.frames
    ]
    mask = torch.ones(batch_size, length, dtype=torch.bool, device=device)
    text = TextConditioning(zeros(length, config.text_dim), mask, zeros(config.pooled_text_dim))
    return clips, torch.zeros(batch_size, device=device), text


def wan_activations(
    config: WanConfig,
    grid: tuple[int, int, int],
    *,
    num_text_tokens: int,
    dtype: torch.dtype,
) -> int:
    """Most bytes that tensors of a call occupy at once, inputs included; with guidance Wan makes two calls of one row.

    Args:
        grid: Token frames, rows and columns.
        num_text_tokens: Length of the padded prompt.
    """
    kinds = tuple(dict.fromkeys(config.kinds))
    thin = replace(config, num_layers=len(kinds), mixer_plan=kinds)
    sizes = [count * side for count, side in zip(grid, config.patch_size, strict=True)]
    latents = torch.zeros(1, config.in_channels, *sizes, dtype=dtype, device="meta")
    text = torch.zeros(1, num_text_tokens, config.text_dim, dtype=dtype, device="meta")
    return _peak(thin, (latents, torch.zeros(1, device="meta"), text), dtype)


def _peak(config: DenoiserConfig | WanConfig, inputs: tuple[Any, ...], dtype: torch.dtype) -> int:
    network = meta_denoiser(config)
    cast_weights(network, dtype)
    return peak_bytes(network, *inputs, weights=(list(network.parameters()), list(network.buffers())))
