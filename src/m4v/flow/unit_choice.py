"""Which unit of a video a training step denoises at each pyramid level.

A sample trains unit u given the units before it, so sequence length grows with u, and most at the finest level. Both
rules are pure functions of step and rank, so that a resumed run goes on where it stopped.
"""

from dataclasses import dataclass
from typing import Protocol

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed


class UnitChoice(Protocol):
    """Chooses the trained unit."""

    def units(self, *, step: int, rank: int, num_units: int, num_levels: int) -> tuple[int, ...]:
        """Give the index of the trained unit for every level, coarsest first, for a video of `num_units` units."""
        ...


@dataclass(frozen=True, kw_only=True)
class ComplementUnits:
    """Late units at the finest level while the other levels train early ones, and the reverse.

    The ranks of a group take different units of the finest level, and `max_units / group_size` steps visit all of
    them; every other level takes the mirror unit, which balances the sequence lengths of a step.

    Attributes:
        max_units: Units of the longest video.
        group_size: Ranks that share the units among them; divides `max_units`.

    Raises:
        UserError: when `group_size` does not divide `max_units`: some units would never be trained.

    Source: Pyramid-Flow's published trainer.
    """

    max_units: int
    group_size: int = 1

    def __post_init__(self) -> None:
        if self.max_units < 1 or self.group_size < 1 or self.max_units % self.group_size:
            raise UserError(
                f"group_size is {self.group_size} with max_units {self.max_units}; expected positive numbers, "
                "the group size dividing the number of units, so that every unit is trained."
            )

    def units(self, *, step: int, rank: int, num_units: int, num_levels: int) -> tuple[int, ...]:
        """Give the index of the trained unit for every level, coarsest first."""
        turn = step % (self.max_units // self.group_size)
        late = rank % self.group_size + turn * self.group_size
        early = self.max_units - 1 - late
        last = num_units - 1
        return (*(min(early, last) for _ in range(num_levels - 1)), min(late, last))


@dataclass(frozen=True, kw_only=True)
class UniformUnits:
    """An independent uniform unit for every level, step and rank.

    Attributes:
        seed: Seed of the run.
    """

    seed: int

    def units(self, *, step: int, rank: int, num_units: int, num_levels: int) -> tuple[int, ...]:
        """Give the index of the trained unit for every level, coarsest first."""
        return tuple(fold_seed(self.seed, "unit", step, rank, level) % num_units for level in range(num_levels))
