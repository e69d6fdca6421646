"""Random numbers of a batch of videos, drawn so that a video does not depend on its neighbours in the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.flow.noise import standard_normal
from m4v.flow.renoise import jump
from m4v.flow.schedule import PyramidSchedule


@dataclass(frozen=True)
class NoiseSource:
    """Draws a batch's noise from one generator per video, or from a single one for the whole batch.

    Attributes:
        generators: As many as there are videos, or exactly one; advanced by every draw.
        batch: Number of videos.
    """

    generators: Sequence[torch.Generator]
    batch: int

    def __post_init__(self) -> None:
        assert len(self.generators) in (1, self.batch), (len(self.generators), self.batch)

    def draw(self, shape: Sequence[int], device: torch.device) -> Float[Tensor, "b ..."]:
        """Draw unit noise for the whole batch.

        Args:
            shape: Shape of one video's part, without the batch axis.
            device: Where the result goes; drawing happens on the generators' own device.
        """
        if len(self.generators) == 1:
            return standard_normal((self.batch, *shape), self.generators[0], device)
        return torch.stack([standard_normal(shape, generator, device) for generator in self.generators])

    def jump(
        self, schedule: PyramidSchedule, latents: Float[Tensor, "b c t h w"], level: int
    ) -> Float[Tensor, "b c t h2 w2"]:
        """Carry every video from the end of the level below to the start of `level`; see `m4v.flow.renoise.jump`."""
        if len(self.generators) == 1:
            return jump(schedule, latents, level, self.generators[0])
        videos = zip(latents.split(1), self.generators, strict=True)
        return torch.cat([jump(schedule, video, level, generator) for video, generator in videos])
