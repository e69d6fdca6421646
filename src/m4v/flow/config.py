"""Settings of flow matching, over a pyramid or on whole clips, readable without torch (Sec. 3.1; Jin et al., 2024)."""

import itertools
from dataclasses import dataclass
from typing import Literal

from m4v.core.errors import UserError

MAX_GAMMA = 1 / 3


@dataclass(frozen=True, kw_only=True)
class PyramidFlowConfig:
    """Which noise shares each pyramid level covers, and how history is laid out.

    Attributes:
        num_levels: Spatial pyramid levels, at least 1; 0 is the coarsest and each level doubles height and width.
        level_range: `num_levels + 1` rising shares of the whole noise schedule from 0 to 1; level k covers
            `level_range[k]` to `level_range[k + 1]`.
        gamma: Anticorrelation of the noise added inside every 2 x 2 block at a jump between levels, in (0, 1/3].
        shift: Sigma shift, positive; above 1 spends more of the schedule on high noise.
        num_train_timesteps: Entries of the timestep table of every level; also the largest timestep.
        history_halvings: How many levels below the noisy frame the history frames 1, 2, ... units back are kept; the
            last entry serves all older frames. None: one level lower for every further unit back, down to level 0.
            (The literal reading of Eq. 7, in which the second frame back stays uncompressed, is `(0, 0, 1)`.)

    Raises:
        UserError: when a value is outside the ranges above.

    Source: Sec. 3.1, Eq. 4 and 7; default values as released with Pyramid-Flow.
    """

    num_levels: int = 3
    level_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    gamma: float = MAX_GAMMA
    shift: float = 1.0
    num_train_timesteps: int = 1000
    history_halvings: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_levels < 1:
            raise UserError(f"num_levels is {self.num_levels}; expected at least 1.")
        if self.num_train_timesteps < 2:
            raise UserError(f"num_train_timesteps is {self.num_train_timesteps}; expected at least 2.")
        self._check_level_range()
        if not 0 < self.gamma <= MAX_GAMMA + 1e-9:
            raise UserError(
                f"gamma is {self.gamma}; expected more than 0 and at most 1/3 (beyond it no such noise exists)."
            )
        if not self.shift > 0:
            raise UserError(f"shift is {self.shift}; expected a positive number (1 leaves the schedule as it is).")
        if self.history_halvings is not None:
            check_halvings(self.history_halvings)

    def _check_level_range(self) -> None:
        edges = self.level_range
        if len(edges) != self.num_levels + 1:
            raise UserError(
                f"level_range has {len(edges)} entries; expected {self.num_levels + 1} for num_levels="
                f"{self.num_levels} (PyramidFlowConfig.with_equal_levels makes an even one)."
            )
        indices = [int(edge * self.num_train_timesteps) for edge in edges]
        is_rising = all(low < high for low, high in itertools.pairwise(indices))
        if edges[0] != 0 or edges[-1] != 1 or not is_rising:
            raise UserError(
                f"level_range is {edges}; expected numbers rising from 0 to 1, at least "
                f"1/{self.num_train_timesteps} apart."
            )

    @classmethod
    def with_equal_levels(cls, num_levels: int) -> "PyramidFlowConfig":
        """Split the schedule evenly over any number of levels, with the other settings at their defaults.

        Raises:
            UserError: when `num_levels` is below 1.
        """
        edges = tuple(index / num_levels for index in range(num_levels + 1)) if num_levels > 0 else ()
        return cls(num_levels=num_levels, level_range=edges)


def check_halvings(halvings: tuple[int, ...]) -> None:
    """Check that older history frames are never finer than newer ones.

    Raises:
        UserError: when the tuple is empty, has a negative entry or falls.
    """
    is_falling = any(newer > older for newer, older in itertools.pairwise(halvings))
    if not halvings or min(halvings) < 0 or is_falling:
        raise UserError(
            f"history_halvings is {tuple(halvings)}; expected one or more whole numbers from 0 that never fall, "
            "newest frame first, for example (0, 1, 2)."
        )


@dataclass(frozen=True, kw_only=True)
class FullSequenceFlowConfig:
    """How whole clips are noised in training, and how the sampling grid is shifted.

    Attributes:
        shift: Sigma shift, positive; above 1 spends more of the schedule on high noise. Customary values are 3 at 480
            rows and 5 at 720.
        timestep_distribution: `logit-normal`: the sigmoid of a normal variable, shifted (Wan2.1's advice);
            `uniform`: a uniform variable, shifted; `grid-bell`: a uniform entry of the shifted grid whose loss counts
            by a bell over the timestep, 0 at the noisiest entry (DiffSynth-Studio).
        logit_mean: Mean of the normal variable; above 0 means more noise.
        logit_std: Its standard deviation, positive.
        num_train_timesteps: Entries of the grid; also the largest timestep.

    Raises:
        UserError: when a value is outside the ranges above.

    Source: Wan2.1; DiffSynth-Studio.
    """

    shift: float = 3.0
    timestep_distribution: Literal["logit-normal", "uniform", "grid-bell"] = "logit-normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UserError(f"shift is {self.shift}; expected a positive number (1 leaves the schedule as it is).")
        if self.timestep_distribution not in ("logit-normal", "uniform", "grid-bell"):
            raise UserError(
                f"timestep_distribution is {self.timestep_distribution!r}; expected logit-normal, uniform or grid-bell."
            )
        if not self.logit_std > 0:
            raise UserError(f"logit_std is {self.logit_std}; expected a positive number.")
        if self.num_train_timesteps < 2:
            raise UserError(f"num_train_timesteps is {self.num_train_timesteps}; expected at least 2.")
