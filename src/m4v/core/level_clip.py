"""Latent frames tagged with the pyramid level they live on (Eq. 4: a history is a list of these)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LevelClip:
    """Consecutive latent frames of one pyramid level.

    Attributes:
        latents: Frames at the level's own resolution.
        level: Spatial pyramid level, 0 = coarsest.
    """

    latents: Float[Tensor, "b c t h w"]
    level: int
