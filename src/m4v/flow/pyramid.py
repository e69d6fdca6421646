"""Spatial pyramids of latents and noise: factor-2 means down, nearest neighbour up (Sec. 3.1, K in Eq. 4)."""

from collections.abc import Sequence

from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError


def downsample(latents: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h2 w2"]:
    """Halve height and width by the mean of every 2 x 2 block (bilinear halving is the same).

    Raises:
        UserError: when height or width is odd.

    Source: K in Eq. 4 and 7.
    """
    height, width = latents.shape[-2:]
    if height % 2 or width % 2:
        raise UserError(
            f"Latents of {height}x{width} cells cannot be halved; height and width must be divisible by 2 at every "
            "pyramid level but the coarsest. Choose a size divisible by a higher power of two, or fewer levels."
        )
    coarse: Tensor = reduce(latents, "... (h p) (w q) -> ... h w", "mean", p=2, q=2)
    return coarse


def upsample_nearest(latents: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h2 w2"]:
    """Double height and width by repeating every cell in a 2 x 2 block."""
    fine: Tensor = repeat(latents, "... h w -> ... (h p) (w q)", p=2, q=2)
    return fine


def latent_pyramid(latents: Float[Tensor, "*b h w"], num_levels: int) -> list[Tensor]:
    """Build all levels of clean latents, coarsest first; the last entry is the argument itself.

    Raises:
        UserError: when a size cannot be halved `num_levels - 1` times.
    """
    levels = [latents]
    for _ in range(num_levels - 1):
        levels.append(downsample(levels[-1]))
    return levels[::-1]


def noise_pyramid(noise: Float[Tensor, "*b h w"], num_levels: int) -> list[Tensor]:
    """Build all levels of white noise, coarsest first, each of unit variance.

    The mean of four independent values has half their standard deviation, hence the factor 2 per halving.

    Raises:
        UserError: when a size cannot be halved `num_levels - 1` times.
    """
    levels = [noise]
    for _ in range(num_levels - 1):
        levels.append(downsample(levels[-1]) * 2)
    return levels[::-1]


def split_frames(pyramid: Sequence[Float[Tensor, "b c t _h _w"]]) -> list[list[Float[Tensor, "b c _h _w"]]]:
    """Turn a pyramid of clips into one pyramid per frame, oldest first (what `history_clips` takes)."""
    return [[level[:, :, frame] for level in pyramid] for frame in range(pyramid[0].shape[2])]
