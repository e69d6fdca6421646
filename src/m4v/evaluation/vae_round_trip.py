"""What the video autoencoder alone loses: clips through encoder and decoder, measured on all and on object pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from m4v.models.vae.causal_video_vae import CausalVideoVAE

_BATCH: Final = 8


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """Reconstructed clips and their likeness to the originals.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, from the mean squared error over all pixels of all clips.
        object_psnr: The same over the pixels that objects cover.
    """

    clips: tuple[UInt8[np.ndarray, "t h w 3"], ...]
    psnr: float
    object_psnr: float


def peak_signal_to_noise(squared_error: float) -> float:
    """Return the PSNR in dB of a mean squared error of values in [0, 1]; infinite for 0."""
    return inf if squared_error <= 0.0 else -10.0 * log10(squared_error)


@torch.no_grad()
def vae_round_trip(
    vae: CausalVideoVAE,
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]],
    masks: Sequence[Bool[np.ndarray, "t h w"]],
) -> RoundTrip:
    """Encode (most likely latents) and decode clips of one size.

    Args:
        masks: Pixels that objects cover.

    Raises:
        UserError: If the size or frame count does not fit the autoencoder.
    """
    results: list[np.ndarray] = []
    errors, object_errors, num_values, num_object_values = 0.0, 0.0, 0, 0
    for start in range(0, len(clips), _BATCH):
        batch = np.stack(clips[start : start + _BATCH])
        mask = np.stack(masks[start : start + _BATCH])
        pixels = torch.from_numpy(batch).to(vae.device, vae.dtype).permute(0, 4, 1, 2, 3) / 127.5 - 1.0
        decoded = vae.decode(vae.encode(pixels).mode())
        values = (decoded.float() * 0.5 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 4, 1).cpu().numpy()
        squares = np.square(values.astype(np.float64) - batch / 255.0)
        errors, num_values = errors + float(squares.sum()), num_values + squares.size
        on_objects = squares[mask]
        object_errors, num_object_values = object_errors + float(on_objects.sum()), num_object_values + on_objects.size
        results += list(np.round(values * 255.0).astype(np.uint8))
    return RoundTrip(
        clips=tuple(results),
        psnr=peak_signal_to_noise(errors / max(num_values, 1)),
        object_psnr=peak_signal_to_noise(object_errors / max(num_object_values, 1)),
    )
