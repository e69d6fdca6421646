"""A watch against reward hacking: rewards that rise while an independent judge says that videos get worse."""

from collections.abc import Mapping
from dataclasses import dataclass

from m4v.core.errors import UserError

ORACLE, SAMPLED = "oracle/", "sampled/"
_REWARD_START, _ORACLE_START = "guard/reward_at_start", "guard/oracle_at_start"


class RewardHacking(UserError):
    """Rewards rose while the oracle fell beyond the margin, and the settings say to stop then."""


@dataclass(frozen=True, kw_only=True)
class GuardLook:
    """Means over one set of samples, and over the set made before the first step.

    Attributes:
        reward: Mean of the trained rewards, each times its factor.
        oracle: Mean of the oracles.
        reward_at_start: As `reward`, before the first step.
        oracle_at_start: As `oracle`, before the first step.
    """

    reward: float
    oracle: float
    reward_at_start: float
    oracle_at_start: float

    @classmethod
    def from_values(
        cls, values: Mapping[str, float], factors: Mapping[str, float], earlier: Mapping[str, object]
    ) -> "GuardLook":
        """Take the means of what was measured.

        Args:
            values: `sampled/<reward>` and `oracle/<name>`.
            factors: Of the rewards, by name.
            earlier: What earlier looks logged; without a start in it, this look is the start.
        """
        reward = sum(factor * values[SAMPLED + name] for name, factor in factors.items()) / len(factors)
        judged = [value for name, value in values.items() if name.startswith(ORACLE)]
        oracle = sum(judged) / len(judged)
        return cls(
            reward=reward,
            oracle=oracle,
            reward_at_start=_number(earlier.get(_REWARD_START), reward),
            oracle_at_start=_number(earlier.get(_ORACLE_START), oracle),
        )

    def is_hacked(self, margin: float) -> bool:
        """Tell whether rewards rose and the oracle fell by more than the margin since the start."""
        return self.reward > self.reward_at_start and self.oracle < self.oracle_at_start - margin

    def to_log(self) -> dict[str, float]:
        """What the next looks need to know, also after a resume."""
        return {_REWARD_START: self.reward_at_start, _ORACLE_START: self.oracle_at_start}

    def describe(self) -> str:
        """Say what happened and what can be done."""
        return (
            f"The rewards rose from {self.reward_at_start:.3f} to {self.reward:.3f} since the stage began, while the "
            f"independent oracle fell from {self.oracle_at_start:.3f} to {self.oracle:.3f}: the model learns to please "
            "the rewards, not to make better videos. Stop here and take an earlier checkpoint, or lower reward.weight "
            "or the learning rate."
        )


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
