"""What training and sampling ask of a flow, be it a pyramid of levels or the whole clip at once (Sec. 3.1)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import RowGenerator
from m4v.flow.path import FlowSample
from m4v.flow.schedule import InferenceSteps
from m4v.flow.solver import euler_step


class Flow(Protocol):
    """A straight path from noise to clean latents, cut into one or more levels.

    On every level the network sees `share * start point + (1 - share) * end point`, is told a timestep, and answers the
    velocity, start point minus end point.
    """

    @property
    def num_levels(self) -> int:
        """Levels of the path; level 0 begins with pure noise, the last one ends with the clean latents."""

    def training_sample(
        self,
        latents: Float[Tensor, "b c t h w"],
        level: int,
        *,
        noise_generator: RowGenerator,
        timestep_generator: RowGenerator,
    ) -> FlowSample:
        """Draw noise and a timestep for every row, and give what the network gets and what it should answer.

        Args:
            latents: Clean, normalised latents at full size.
            level: Level to train, from 0.
            noise_generator: Source of the noise.
            timestep_generator: Source of the timesteps; one on the CPU avoids a device synchronisation.
        """

    def first_latents(self, noise: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t _h _w"]:
        """Turn white noise of full size into the start point of level 0."""

    def inference_steps(self, level: int, num_steps: int) -> InferenceSteps:
        """Spread solver steps over a level, noisiest first."""

    def enter_level(
        self, latents: Float[Tensor, "b c t _h _w"], level: int, generator: torch.Generator
    ) -> Float[Tensor, "b c t _h2 _w2"]:
        """Carry the end point of the level below to the start point of `level`, which is at least 1."""


Velocity = Callable[[Tensor, int, float], Tensor]
"""Predicts the velocity from noisy latents `b c t h w`, the level they are on, and the timestep, 0 to 1000."""


def integrate(
    flow: Flow,
    velocity: Velocity,
    noise: Float[Tensor, "b c t h w"],
    num_steps: Sequence[int],
    generator: torch.Generator,
) -> Float[Tensor, "b c t h w"]:
    """Follow a velocity from white noise to clean latents by Euler steps, level after level.

    Args:
        flow: The path.
        velocity: The network, with everything else it needs bound to it.
        noise: White noise of full size.
        num_steps: Steps per level.
        generator: Source of the noise that entering a level adds.

    Raises:
        UserError: if `num_steps` has another length than the flow has levels, or a count is below 1.
    """
    if len(num_steps) != flow.num_levels:
        raise UserError(f"There are {len(num_steps)} step counts; expected one for each of {flow.num_levels} levels.")
    latents = flow.first_latents(noise)
    for level, count in enumerate(num_steps):
        if level > 0:
            latents = flow.enter_level(latents, level, generator)
        steps = flow.inference_steps(level, count)
        sigma_pairs = itertools.pairwise(steps.level_sigmas.tolist())
        for timestep, sigmas in zip(steps.timesteps.tolist(), sigma_pairs, strict=True):
            latents = euler_step(latents, velocity(latents, level, timestep), *sigmas)
    return latents
