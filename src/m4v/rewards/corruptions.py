"""Damaged clips that the quality judge of the toybox learns to tell from clean renders."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Frames = Float[Tensor, "b t 3 h w"]
Corruption = Callable[[Tensor, torch.Generator], Tensor]


def blur(frames: Frames, generator: torch.Generator) -> Frames:
    """Lose detail: shrink by 1.5 to 4 and enlarge again."""
    factor = 1.5 + 2.5 * _uniform(generator)
    flat, (height, width) = frames.flatten(0, 1), frames.shape[-2:]
    small = F.interpolate(flat, size=(int(height / factor), int(width / factor)), mode="bilinear", antialias=True)
    return F.interpolate(small, size=(height, width), mode="bicubic").clamp(-1, 1).view_as(frames)


def noise(frames: Frames, generator: torch.Generator) -> Frames:
    """Add white noise of deviation 0.03 to 0.3."""
    strength = 0.03 + 0.27 * _uniform(generator)
    return (frames + strength * torch.randn(frames.shape, generator=generator)).clamp(-1, 1)


def warp(frames: Frames, generator: torch.Generator) -> Frames:
    """Bend shapes by a smooth random displacement, another in every frame half of the time."""
    batch, num_frames, _, height, width = frames.shape
    is_steady = bool(_uniform(generator) < 0.5)
    strength = 0.05 + 0.12 * _uniform(generator)
    count = batch if is_steady else batch * num_frames
    coarse = strength * torch.randn(count, 2, 6, 6, generator=generator)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic").permute(0, 2, 3, 1)
    if is_steady:
        field = field.repeat_interleave(num_frames, dim=0)
    size = [batch * num_frames, 3, height, width]
    still = F.affine_grid(torch.eye(2, 3).expand(size[0], 2, 3), size, align_corners=False)
    flat = F.grid_sample(frames.flatten(0, 1), still + field, padding_mode="reflection", align_corners=False)
    return flat.view_as(frames)


def ghost(frames: Frames, generator: torch.Generator) -> Frames:
    """Show two clips at once."""
    share = 0.2 + 0.3 * _uniform(generator)
    return (1 - share) * frames + share * frames.roll(1, dims=0)


def blocks(frames: Frames, generator: torch.Generator) -> Frames:
    """Replace square patches by those of another clip."""
    side = 8 if _uniform(generator) < 0.5 else 16
    batch, _, _, height, width = frames.shape
    chosen = torch.rand(batch, 1, 1, height // side, width // side, generator=generator) < 0.15
    mask = chosen.repeat_interleave(side, dim=-2).repeat_interleave(side, dim=-1)
    return torch.where(mask, frames.roll(1, dims=0), frames)


def shuffle(frames: Frames, generator: torch.Generator) -> Frames:
    """Put the frames into another order."""
    return frames[:, torch.randperm(frames.shape[1], generator=generator)]


CORRUPTIONS: dict[str, Corruption] = {
    "blur": blur,
    "noise": noise,
    "warp": warp,
    "ghost": ghost,
    "blocks": blocks,
    "shuffle": shuffle,
}
"""By name; damage done in latent space is made by the caller, who has an autoencoder."""


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
