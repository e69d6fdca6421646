"""Small reward networks of the toybox world: a contrastive caption-video encoder and a judge of picture quality.

They stand in for CLIP and HPSv2 where nothing can be downloaded, so that reward learning runs for real (Sec. 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from m4v.rewards.preprocessing import resize

FRAME_SIZE = 64
"""Height and width, in pixels, of the frames that the networks see."""
FRAME_STRIDE = 2
"""Of the given frames every second one is looked at, the first one included."""
_GROUPS = 8
_COORDINATES = 2


@dataclass(frozen=True, kw_only=True)
class ToyboxClipConfig:
    """Shape of the caption-video encoder.

    Attributes:
        words: Vocabulary of the caption tower, in the order of its token ids.
        widths: Channels of the frame tower; every layer halves height and width.
        frame_dim: Width of a frame's description.
        word_dim: Width of a word.
        joint_dim: Width of the space that captions and videos share.
    """

    words: tuple[str, ...]
    widths: tuple[int, ...] = (24, 40, 64, 64)
    frame_dim: int = 96
    word_dim: int = 64
    joint_dim: int = 64


@dataclass(frozen=True, kw_only=True)
class ToyboxQualityConfig:
    """Shape of the quality judge.

    Attributes:
        widths: Channels of its layers; every layer but the last halves height and width.
    """

    widths: tuple[int, ...] = (32, 48, 64, 64)


def looked_at(frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u 3 64 64"]:
    """Pick the frames that the networks look at, at the size they were trained on."""
    picked = frames[:, ::FRAME_STRIDE]
    flat = resize(picked.flatten(0, 1).float(), (FRAME_SIZE, FRAME_SIZE))
    return flat.unflatten(0, picked.shape[:2])


class VideoTower(nn.Module):
    """Convolutions on every frame, then over time, then means over time."""

    def __init__(self, config: ToyboxClipConfig) -> None:
        super().__init__()
        widths = (3 + _COORDINATES, *config.widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 5 if number == 0 else 3, stride=2, padding=2 if number == 0 else 1)
            for number, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for width in config.widths)
        cells = (FRAME_SIZE >> len(config.widths)) ** 2
        self.describe = nn.Linear(cells * config.widths[-1], config.frame_dim)
        self.over_time = nn.ModuleList(nn.Conv1d(config.frame_dim, config.frame_dim, 3, padding=1) for _ in range(2))
        self.project = nn.Linear(2 * config.frame_dim, config.joint_dim)

    def forward(self, frames: Float[Tensor, "b t 3 64 64"]) -> Float[Tensor, "b d"]:
        """Describe videos by vectors of length 1."""
        batch = len(frames)
        cells = _with_coordinates(rearrange(frames, "b t c h w -> (b t) c h w"))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            cells = F.silu(norm(conv(cells)))
        steps = rearrange(F.silu(self.describe(cells.flatten(1))), "(b t) d -> b d t", b=batch)
        appearance = steps.mean(dim=2)
        for conv in self.over_time:
            steps = steps + F.silu(conv(steps))
        return F.normalize(self.project(torch.cat([appearance, steps.mean(dim=2)], dim=1)), dim=1)


class CaptionTower(nn.Module):
    """Word vectors, each with its neighbours, averaged."""

    def __init__(self, config: ToyboxClipConfig, num_tokens: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_tokens, config.word_dim)
        self.neighbours = nn.Conv1d(config.word_dim, config.word_dim, 3, padding=1)
        self.project = nn.Linear(config.word_dim, config.joint_dim)

    def forward(self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Describe captions by vectors of length 1."""
        real = mask[:, None].to(self.words.weight.dtype)
        words = rearrange(self.words(ids), "b l d -> b d l") * real
        words = (words + F.silu(self.neighbours(words))) * real
        mean = words.sum(dim=2) / real.sum(dim=2).clamp_min(1)
        return F.normalize(self.project(F.silu(mean)), dim=1)


class ToyboxClipNetwork(nn.Module):
    """Both towers and the temperature of their contrast."""

    def __init__(self, config: ToyboxClipConfig, num_tokens: int) -> None:
        super().__init__()
        self.video = VideoTower(config)
        self.caption = CaptionTower(config, num_tokens)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(
        self, frames: Float[Tensor, "b t 3 64 64"], ids: Int[Tensor, "n l"], mask: Bool[Tensor, "n l"]
    ) -> Float[Tensor, "b n"]:
        """Compare every video with every caption; logits."""
        return self.log_scale.exp() * self.video(frames) @ self.caption(ids, mask).T


class ToyboxQualityNetwork(nn.Module):
    """Judges small neighbourhoods of a frame and of its change since the frame before, and averages the verdicts."""

    def __init__(self, config: ToyboxQualityConfig) -> None:
        super().__init__()
        widths: Sequence[int] = (6, *config.widths)
        last = len(config.widths) - 1
        strides = [2] * last + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 5 if number == 0 else 3, stride=strides[number], padding=2 if number == 0 else 1)
            for number, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for width in config.widths)
        self.verdict = nn.Linear(2 * config.widths[-1], 1)

    def forward(self, frames: Float[Tensor, "b t 3 64 64"]) -> Float[Tensor, " b"]:
        """Logits: positive means a clean render."""
        batch = len(frames)
        changes = torch.cat([torch.zeros_like(frames[:, :1]), frames[:, 1:] - frames[:, :-1]], dim=1)
        cells = rearrange(torch.cat([frames, changes], dim=2), "b t c h w -> (b t) c h w")
        for conv, norm in zip(self.convs, self.norms, strict=True):
            cells = F.silu(norm(conv(cells)))
        # The mean sees what is wrong everywhere, the largest value what is wrong somewhere.
        seen = torch.cat([cells.mean(dim=(2, 3)), torch.logsumexp(4 * cells.flatten(2), dim=2) / 4], dim=1)
        logits: Tensor = self.verdict(seen)[:, 0]
        return rearrange(logits, "(b t) -> b t", b=batch).mean(dim=1)


def _with_coordinates(frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 5 h w"]:
    """Add rows that say where a pixel is: convolutions alone could not tell left from right."""
    height, width = frames.shape[-2:]
    down = torch.linspace(-1, 1, height, device=frames.device, dtype=frames.dtype)[:, None].expand(height, width)
    across = torch.linspace(-1, 1, width, device=frames.device, dtype=frames.dtype).expand(height, width)
    return torch.cat([frames, torch.stack([down, across]).expand(len(frames), -1, -1, -1)], dim=1)
