"""Pixels as the VAE speaks them, and as people want them: arrays, tensors or pictures."""

import itertools
import logging
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

logger = logging.getLogger(__name__)

OutputType = Literal["np", "pt", "pil", "latent"]
OUTPUT_TYPES: tuple[str, ...] = ("np", "pt", "pil", "latent")


def to_uint8(video: Float[Tensor, "b 3 t h w"]) -> UInt8[np.ndarray, "b t h w 3"]:
    """Turn VAE pixels from [-1, 1] into bytes, nearest value."""
    scaled = (video.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    array: np.ndarray = scaled.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()
    return array


def present(video: Float[Tensor, "b 3 t h w"], output_type: OutputType) -> Any:
    """Convert decoded pixels to what the caller asked for.

    Args:
        video: VAE pixels.
        output_type: "np": uint8 `b t h w 3`; "pt": float tensor `b t 3 h w` in [0, 1]; "pil": a list of pictures per
            video.
    """
    if not video.isfinite().all():
        logger.warning(
            "The video has pixels that are no numbers, which come out black or grey: the weights are damaged, guidance "
            "is far too strong, or the precision too narrow (float16 often is; use bfloat16 or float32)."
        )
    if output_type == "pt":
        return (video.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4)
    frames = to_uint8(video)
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in clip] for clip in frames]
    return frames


def join(units: list[Any], output_type: OutputType) -> Any:
    """Put the pieces of consecutive units, as `present` gives them, together to whole videos."""
    if output_type == "pil":
        return [list(itertools.chain.from_iterable(pieces)) for pieces in zip(*units, strict=True)]
    if output_type == "np":
        return np.concatenate(units, axis=1) if units else np.zeros((0, 0, 0, 0, 3), np.uint8)
    if not units:
        return torch.zeros(0, 0, 0, 0, 0)
    return torch.cat(units, dim=2 if output_type == "latent" else 1)
