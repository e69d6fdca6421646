"""The diffusers face of the pyramid schedule: saved and loaded with a pipeline, else only delegating (Sec. 3.1)."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from m4v.flow.config import MAX_GAMMA, PyramidFlowConfig
from m4v.flow.renoise import jump
from m4v.flow.schedule import InferenceSteps, PyramidSchedule
from m4v.flow.solver import euler_step


class PyramidFlowScheduler(SchedulerMixin, ConfigMixin):
    """Pyramid flow matching as a pipeline component.

    Unlike most diffusers schedulers it keeps no position: steps are asked for per level and passed back in.

    Args:
        num_levels: See `PyramidFlowConfig`, as all the others.
        level_range: Rising shares of the noise schedule, 0 to 1.
        gamma: Anticorrelation of jump noise, in (0, 1/3].
        shift: Sigma shift, positive.
        num_train_timesteps: Length of the timestep tables.
        history_halvings: Levels of the history frames below the noisy one.

    Raises:
        UserError: when a value is outside its range.

    Source: Sec. 3.1; Jin et al., 2024.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_levels: int = 3,
        level_range: Sequence[float] = (0.0, 1 / 3, 2 / 3, 1.0),
        gamma: float = MAX_GAMMA,
        shift: float = 1.0,
        num_train_timesteps: int = 1000,
        history_halvings: Sequence[int] | None = None,
    ) -> None:
        self._schedule = PyramidSchedule.from_config(
            PyramidFlowConfig(
                num_levels=num_levels,
                level_range=tuple(level_range),
                gamma=gamma,
                shift=shift,
                num_train_timesteps=num_train_timesteps,
                history_halvings=None if history_halvings is None else tuple(history_halvings),
            )
        )

    @classmethod
    def from_flow_config(cls, config: PyramidFlowConfig) -> "PyramidFlowScheduler":
        """Make the component for a typed configuration."""
        scheduler: PyramidFlowScheduler = cls(**asdict(config))
        return scheduler

    @property
    def schedule(self) -> PyramidSchedule:
        """Tables of all levels; `schedule.config` is the typed configuration."""
        return self._schedule

    def inference_steps(self, level: int, num_steps: int) -> InferenceSteps:
        """Spread Euler steps over a level; see `PyramidSchedule.inference_steps`."""
        return self._schedule.inference_steps(level, num_steps)

    def step(
        self,
        latents: Float[Tensor, "b c t h w"],
        velocity: Float[Tensor, "b c t h w"],
        level_sigma: float | Float[Tensor, ""],
        next_level_sigma: float | Float[Tensor, ""],
    ) -> Float[Tensor, "b c t h w"]:
        """Take one Euler step inside a level; see `m4v.flow.solver.euler_step`."""
        return euler_step(latents, velocity, level_sigma, next_level_sigma)

    def jump(
        self, latents: Float[Tensor, "b c t h w"], level: int, generator: torch.Generator
    ) -> Float[Tensor, "b c t h2 w2"]:
        """Enter a level from the one below; see `m4v.flow.renoise.jump`."""
        return jump(self._schedule, latents, level, generator)
