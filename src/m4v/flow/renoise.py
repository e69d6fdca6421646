"""The jump between pyramid levels: upsample, then add noise that makes the result white again (Sec. 3.1).

After nearest upsampling, the noise inside a 2 x 2 block is four copies of one value. Adding noise with covariance
1 on the diagonal and -gamma off it cancels the correlation; `PyramidSchedule` holds the two factors that do so exactly.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.flow.noise import standard_normal
from m4v.flow.pyramid import downsample, upsample_nearest
from m4v.flow.schedule import PyramidSchedule


def block_noise(white_noise: Float[Tensor, "*b h w"], gamma: float) -> Float[Tensor, "*b h w"]:
    """Colour white noise so that every 2 x 2 block has covariance (1 + gamma) I - gamma 1 1^T.

    The covariance keeps block means and deviations from them apart, with variances 1 - 3 gamma (of the mean direction)
    and 1 + gamma, so its symmetric square root scales the two parts. At gamma = 1/3 the mean vanishes, which is why a
    Cholesky factorisation of this covariance fails: it is singular.

    Args:
        white_noise: Independent unit-variance noise with even height and width.
        gamma: Anticorrelation, above 0 to 1/3.

    Raises:
        UserError: when height or width is odd.

    Source: Jin et al., 2024 (renoising between stages).
    """
    mean = upsample_nearest(downsample(white_noise))
    return math.sqrt(1 + gamma) * (white_noise - mean) + math.sqrt(max(1 - 3 * gamma, 0.0)) * mean


def jump(
    schedule: PyramidSchedule, latents: Float[Tensor, "b c t h w"], level: int, generator: torch.Generator
) -> Float[Tensor, "b c t h2 w2"]:
    """Carry the end point of `level - 1` to a start point of `level`.

    Args:
        schedule: Tables of the pyramid.
        latents: End point of the level below.
        level: Level to enter, from 1.
        generator: Source of the noise; may live on another device than the latents.

    Raises:
        UserError: when there is no such level to enter.

    Source: Sec. 3.1; Jin et al., 2024 (renoising between stages).
    """
    schedule.check_level(level, lowest=1)
    working = torch.promote_types(latents.dtype, torch.float32)
    upsampled = upsample_nearest(latents.to(working))
    noise = block_noise(standard_normal(upsampled.shape, generator, latents.device), schedule.config.gamma)
    return (schedule.jump_alpha[level] * upsampled + schedule.jump_beta[level] * noise).to(latents.dtype)
