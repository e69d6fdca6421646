"""Pyramid flow matching as one object: every level is a straight path at its own size (Sec. 3.1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.generators import RowGenerator
from m4v.flow.noise import standard_normal
from m4v.flow.path import FlowSample, sample_path
from m4v.flow.pyramid import latent_pyramid, noise_pyramid
from m4v.flow.renoise import jump
from m4v.flow.schedule import InferenceSteps, PyramidSchedule
from m4v.flow.timesteps import sample_timestep_index


@dataclass(frozen=True)
class PyramidFlow:
    """The base model's flow behind the protocol `m4v.flow.protocol.Flow`.

    Attributes:
        schedule: Tables of the pyramid.

    Source: Sec. 3.1; Jin et al., 2024.
    """

    schedule: PyramidSchedule

    @property
    def num_levels(self) -> int:
        """Spatial pyramid levels, coarsest first."""
        return self.schedule.num_levels

    def training_sample(
        self,
        latents: Float[Tensor, "b c t h w"],
        level: int,
        *,
        noise_generator: RowGenerator,
        timestep_generator: RowGenerator,
    ) -> FlowSample:
        """Draw noise at full size and a uniform row of the level's timestep table; see `sample_path`.

        Raises:
            UserError: when there is no such level, or a size cannot be halved as often as there are levels.
        """
        noise = standard_normal(latents.shape, noise_generator, latents.device)
        index = sample_timestep_index(self.schedule, len(latents), timestep_generator)
        pyramids = (latent_pyramid(latents, self.num_levels), noise_pyramid(noise, self.num_levels))
        return sample_path(self.schedule, *pyramids, level, index)

    def first_latents(self, noise: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t _h _w"]:
        """Average the noise down to the coarsest level, at unit variance."""
        return noise_pyramid(noise, self.num_levels)[0]

    def inference_steps(self, level: int, num_steps: int) -> InferenceSteps:
        """Spread Euler steps over a level; see `PyramidSchedule.inference_steps`."""
        return self.schedule.inference_steps(level, num_steps)

    def enter_level(
        self, latents: Float[Tensor, "b c t _h _w"], level: int, generator: torch.Generator
    ) -> Float[Tensor, "b c t _h2 _w2"]:
        """Double the size and make the noise white again; see `m4v.flow.renoise.jump`."""
        return jump(self.schedule, latents, level, generator)
