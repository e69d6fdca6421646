"""Reconstruction loss that does not let smooth sky and ground hide the things that matter."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from m4v.training.config import PixelLossConfig


@torch.no_grad()
def saliency(video: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 1 t h w"]:
    """How much each pixel stands out, from the video alone: edges, movers, and things unlike their picture row.

    Three absolute differences of brightness and colour are added: to the next pixel (edges), to the pixel's mean over
    time (what moves), and to the mean colour of its row over the clip (what is neither sky nor ground).
    """
    right = functional.pad((video[..., 1:] - video[..., :-1]).abs(), (0, 1))
    below = functional.pad((video[..., 1:, :] - video[..., :-1, :]).abs(), (0, 0, 0, 1))
    moving = (video - video.mean(dim=2, keepdim=True)).abs()
    unlike_row = (video - video.mean(dim=(2, 4), keepdim=True)).abs()
    return (right + below + moving + unlike_row).mean(dim=1, keepdim=True)


def focus_weights(video: Float[Tensor, "b c t h w"], focus: float) -> Float[Tensor, "b 1 t h w"]:
    """Weights of mean 1 per clip: 1 + focus * saliency / (mean saliency of the clip), normalised.

    Args:
        video: The target, in [-1, 1].
        focus: Strength, at least 0; 0 gives 1 everywhere.
    """
    salient = saliency(video)
    relative = salient / salient.mean(dim=(2, 3, 4), keepdim=True).clamp_min(1e-4)
    weights = 1.0 + focus * relative
    return weights / weights.mean(dim=(2, 3, 4), keepdim=True)


def pixel_loss(
    decoded: Float[Tensor, "b c t h w"], video: Float[Tensor, "b c t h w"], config: PixelLossConfig
) -> Float[Tensor, ""]:
    """Weighted mix of absolute and squared error, in 32 bits."""
    error = decoded.float() - video
    per_pixel = config.l1_weight * error.abs() + config.mse_weight * error.square()
    return (per_pixel * focus_weights(video, config.focus)).mean()


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(10.0 * torch.log10(4.0 / torch.tensor(max(mean_squared_error, 1e-12), dtype=torch.float64)))
