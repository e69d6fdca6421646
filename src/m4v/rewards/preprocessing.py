"""Differentiable preparation of frames for picture encoders: no PIL, no torchvision (Sec. 3.4)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Fit = Literal["crop", "pad"]


def resize(frames: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c _h _w"]:
    """Resize by antialiased bicubic interpolation; frames of that size stay as they are."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    return F.interpolate(frames, size=size, mode="bicubic", align_corners=False, antialias=True)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From pixels in [-1, 1] to the normalised square that an encoder was trained on.

    Attributes:
        size: Side of the square, in pixels.
        fit: `crop` resizes the shorter side and cuts out the centre (CLIP); `pad` resizes the longer side and adds
            black bars (HPSv2).
        mean: Of every channel, for pixels in [0, 1].
        std: Deviation of every channel.
    """

    size: int = 224
    fit: Fit = "crop"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __call__(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Prepare frames; gradients pass, except of what bicubic overshoot puts outside [0, 1]."""
        pixels = (frames.float() + 1) / 2
        square = self._cropped(pixels) if self.fit == "crop" else self._padded(pixels)
        mean = torch.tensor(self.mean, device=frames.device)[:, None, None]
        std = torch.tensor(self.std, device=frames.device)[:, None, None]
        return (square - mean) / std

    def _cropped(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        short = min(height, width)
        # Rounded down, and the crop's corner rounded to nearest even: what CLIP's own transforms do.
        target = (int(self.size * height / short), int(self.size * width / short))
        resized = resize(pixels, target).clamp(0, 1)
        top, left = round((target[0] - self.size) / 2), round((target[1] - self.size) / 2)
        return resized[..., top : top + self.size, left : left + self.size]

    def _padded(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        long = max(height, width)
        target = (max(round(self.size * height / long), 1), max(round(self.size * width / long), 1))
        resized = resize(pixels, target).clamp(0, 1)
        down, across = self.size - target[0], self.size - target[1]
        return F.pad(resized, (across // 2, across - across // 2, down // 2, down - down // 2))
