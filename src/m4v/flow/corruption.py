"""Noise on the history during training, so that generation survives its own earlier errors (Appendix A.3).

Levels are noise shares: a corrupted frame is `level * noise + (1 - level) * latents`. Inference never corrupts.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import RowGenerator, draw
from m4v.core.level_clip import LevelClip
from m4v.flow.noise import standard_normal


class HistoryCorruption(ABC):
    """Chooses a noise share for every history frame of every sample, and applies it."""

    @abstractmethod
    def levels(self, num_frames: int, batch: int, generator: RowGenerator) -> Float[Tensor, "b n"]:
        """Draw noise shares in [0, 1] on the generator's device, oldest frame first."""

    def __call__(self, clips: Sequence[LevelClip], generator: RowGenerator) -> list[LevelClip]:
        """Return corrupted copies of the history clips, oldest first."""
        if not clips:
            return []
        frame_counts = [clip.latents.shape[2] for clip in clips]
        levels = self.levels(sum(frame_counts), clips[0].latents.shape[0], generator)
        return [
            _corrupt_clip(clip, clip_levels, generator)
            for clip, clip_levels in zip(clips, torch.split(levels, frame_counts, dim=1), strict=True)
        ]


@dataclass(frozen=True)
class LinearCorruption(HistoryCorruption):
    """Noise that grows linearly from the oldest history frame to the newest.

    Per sample, the newest frame's share is uniform in [0, eta] and the oldest one's uniform in [0, newest]; later
    frames of a generated video carry more accumulated error. A single history frame takes the newest frame's share,
    whose law then does not depend on the history's length.

    Attributes:
        eta: Largest noise share, 0 to 1. The paper prints no value; 1/3 is Pyramid-Flow's.

    Raises:
        UserError: when `eta` is outside 0 to 1.

    Source: Appendix A.3.
    """

    eta: float = 1 / 3

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def levels(self, num_frames: int, batch: int, generator: RowGenerator) -> Float[Tensor, "b n"]:
        """Draw the two ends of every sample and interpolate over frames."""
        newest_draw, oldest_draw = draw(torch.rand, (2, batch, 1), generator, row_dim=1)
        newest = self.eta * newest_draw
        oldest = newest * oldest_draw
        # Counted from the newest, so that a single frame stands at 1.
        position = torch.linspace(1, 0, num_frames, device=generator.device).flip(0)
        return torch.lerp(oldest.expand(-1, num_frames), newest.expand(-1, num_frames), position)


@dataclass(frozen=True)
class ConstantCorruption(HistoryCorruption):
    """One noise share per sample, uniform in [0, eta], for every history frame alike.

    Attributes:
        eta: Largest noise share, 0 to 1.

    Raises:
        UserError: when `eta` is outside 0 to 1.

    Source: Jin et al., 2024 (what Appendix A.3 replaces).
    """

    eta: float = 1 / 3

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def levels(self, num_frames: int, batch: int, generator: RowGenerator) -> Float[Tensor, "b n"]:
        """Draw one share per sample."""
        share = self.eta * draw(torch.rand, (batch, 1), generator)
        return share.expand(batch, num_frames)


@dataclass(frozen=True)
class NoCorruption(HistoryCorruption):
    """Leaves the history as it is and draws nothing."""

    def levels(self, num_frames: int, batch: int, generator: RowGenerator) -> Float[Tensor, "b n"]:
        """Give zeros."""
        return torch.zeros(batch, num_frames, device=generator.device)

    def __call__(self, clips: Sequence[LevelClip], generator: RowGenerator) -> list[LevelClip]:
        """Return the clips themselves."""
        return list(clips)


def _corrupt_clip(clip: LevelClip, levels: Float[Tensor, "b t"], generator: RowGenerator) -> LevelClip:
    latents = clip.latents
    noise = standard_normal(latents.shape, generator, latents.device)
    share = rearrange(levels.to(latents.device), "b t -> b 1 t 1 1")
    mixed = share * noise + (1 - share) * latents.to(torch.promote_types(latents.dtype, torch.float32))
    return replace(clip, latents=mixed.to(latents.dtype))


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise UserError(f"The history corruption ratio eta is {eta}; expected 0 to 1 (the default is 1/3).")
