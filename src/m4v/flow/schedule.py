"""Frozen tables of pyramid flow matching: noise shares, timesteps and jump factors of every level (Sec. 3.1).

Two clocks run here. `sigma` is the global noise share (1 pure noise, 0 clean). `level_sigma` runs from 1 to 0 inside
every level and interpolates the level's noisy start *point* and its cleaner end *point*.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.shift import shift_sigmas


@dataclass(frozen=True, eq=False)
class InferenceSteps:
    """Euler steps that take one level from its start point to its end point.

    Attributes:
        timesteps: What the network embeds at each step, 0 to `num_train_timesteps`.
        level_sigmas: One more entry than steps, from 1 down to exactly 0.
    """

    timesteps: Float[Tensor, " n"]
    level_sigmas: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True, eq=False)
class PyramidSchedule:
    """Constants of every pyramid level; tensors are float32 on the CPU, index k is the level.

    Attributes:
        config: The settings the tables were made from.
        original_start_sigma: Noise share at which the level begins, before the jump's correction.
        start_sigma: Noise share of the level's start point, after the correction (equal at level 0).
        end_sigma: Noise share of the level's end point; 0 at the last level.
        timesteps: Timestep table per level, falling.
        level_sigmas: Local clock shared by all levels, 1 down to `1 / num_train_timesteps`.
        jump_alpha: Factor of the upsampled latents on entering the level (1 at level 0, which nothing enters).
        jump_beta: Factor of the block-anticorrelated noise on entering the level (0 at level 0).
    """

    config: PyramidFlowConfig
    original_start_sigma: tuple[float, ...]
    start_sigma: tuple[float, ...]
    end_sigma: tuple[float, ...]
    timesteps: Float[Tensor, "k n"]
    level_sigmas: Float[Tensor, " n"]
    jump_alpha: tuple[float, ...]
    jump_beta: tuple[float, ...]

    @classmethod
    def from_config(cls, config: PyramidFlowConfig) -> "PyramidSchedule":
        """Compute all tables.

        Upsampling by nearest neighbour makes the noise of a 2 x 2 block fully correlated. The jump adds
        anticorrelated noise until it is white again, which raises the noise share: the corrected start.

        Source: Sec. 3.1; Jin et al., 2024 (renoising between stages), with the released code's index rounding.
        """
        num_steps = config.num_train_timesteps
        sigmas = _shifted_sigmas(num_steps, config.shift)
        indices = [int(edge * num_steps) for edge in config.level_range[:-1]]
        original_start = tuple(sigmas[index].item() for index in indices)
        end = (*original_start[1:], 0.0)
        alpha = (1.0, *(_jump_alpha(sigma, config.gamma) for sigma in original_start[1:]))
        beta = (
            0.0,
            *(a * sigma / math.sqrt(config.gamma) for a, sigma in zip(alpha[1:], original_start[1:], strict=True)),
        )
        start = (
            original_start[0],
            *(1 - a * (1 - sigma) for a, sigma in zip(alpha[1:], original_start[1:], strict=True)),
        )
        return cls(
            config=config,
            original_start_sigma=original_start,
            start_sigma=start,
            end_sigma=end,
            timesteps=_level_timesteps(sigmas, start, end),
            level_sigmas=torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:-1].float(),
            jump_alpha=alpha,
            jump_beta=beta,
        )

    @property
    def num_levels(self) -> int:
        """Number of spatial pyramid levels."""
        return self.config.num_levels

    def inference_steps(self, level: int, num_steps: int) -> InferenceSteps:
        """Spread `num_steps` Euler steps over a level, both ends of its timestep table included.

        Raises:
            UserError: when there is no such level or `num_steps` is below 1.

        Source: Sec. 3.1; Jin et al., 2024.
        """
        self.check_level(level)
        if num_steps < 1:
            raise UserError(f"The number of denoising steps is {num_steps}; expected at least 1 per level.")
        table = self.timesteps[level]
        timesteps = torch.linspace(table[0].item(), table[-1].item(), num_steps, dtype=torch.float64)
        last_sigma = 1 / self.config.num_train_timesteps
        level_sigmas = torch.linspace(1, last_sigma, num_steps, dtype=torch.float64)
        return InferenceSteps(
            timesteps=timesteps.float(),
            level_sigmas=torch.cat([level_sigmas, level_sigmas.new_zeros(1)]).float(),
        )

    def check_level(self, level: int, lowest: int = 0) -> None:
        """Reject a level outside `lowest` to `num_levels - 1`.

        Raises:
            UserError: when there is no such level.
        """
        if not lowest <= level < self.num_levels:
            raise UserError(f"Pyramid level is {level}; expected {lowest} to {self.num_levels - 1}.")


def _shifted_sigmas(num_steps: int, shift: float) -> Float[Tensor, " n"]:
    sigmas = torch.arange(num_steps, 0, -1, dtype=torch.float32) / num_steps
    return shift_sigmas(sigmas, shift)


def _jump_alpha(original_sigma: float, gamma: float) -> float:
    return 1 / (math.sqrt(1 + 1 / gamma) * original_sigma + (1 - original_sigma))


def _level_timesteps(
    sigmas: Float[Tensor, " n"], start_sigma: tuple[float, ...], end_sigma: tuple[float, ...]
) -> Float[Tensor, "k n"]:
    """Share the global timesteps among the levels in proportion to the noise each removes."""
    num_steps = len(sigmas)
    lengths = [start - end for start, end in zip(start_sigma, end_sigma, strict=True)]
    shares = [0.0, *(length / sum(lengths) for length in itertools.accumulate(lengths[:-1])), 1.0]
    global_timesteps = sigmas * num_steps
    edges = [global_timesteps[min(int(share * num_steps), num_steps - 1)].item() for share in shares]
    tables = [torch.linspace(*pair, num_steps + 1, dtype=torch.float64)[:-1] for pair in itertools.pairwise(edges)]
    return torch.stack(tables).float()
