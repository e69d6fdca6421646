"""The 16 dimensions of VBench: prompt suites, normalisation and weights of the official totals.

Source: VBench, `scripts/constant.py` and `scripts/cal_final_score.py` (Apache-2.0); prompt suites from
`dimension_to_folder.json`.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Group = Literal["quality", "semantic"]


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """How one raw score enters the totals.

    Attributes:
        name: VBench's name, with underscores.
        group: Which of the two sums it belongs to.
        low: Raw score that counts as 0.
        high: Raw score that counts as 1.
        weight: Weight inside its group.
        suite: Prompt list it is measured on, by the name of the file without suffix.
        auxiliary: Whether its prompts carry what is to be found (class, colour, ...), so that other prompts cannot be
            scored.
    """

    name: str
    group: Group
    low: float
    high: float
    weight: float
    suite: str
    auxiliary: bool = False

    def normalise(self, raw: float) -> float:
        """Map a raw score (0 to 1) to the scale of the totals; not clamped, as in VBench."""
        return (raw - self.low) / (self.high - self.low)


def _quality(name: str, low: float, high: float, suite: str, weight: float = 1.0) -> Dimension:
    return Dimension(name=name, group="quality", low=low, high=high, weight=weight, suite=suite)


def _semantic(name: str, low: float, high: float, auxiliary: bool = False) -> Dimension:
    return Dimension(name=name, group="semantic", low=low, high=high, weight=1.0, suite=name, auxiliary=auxiliary)


_ALL: Final = (
    _quality("subject_consistency", 0.1462, 1.0, "subject_consistency"),
    _quality("background_consistency", 0.2615, 1.0, "scene"),
    _quality("temporal_flickering", 0.6293, 1.0, "temporal_flickering"),
    _quality("motion_smoothness", 0.7060, 0.9975, "subject_consistency"),
    _quality("dynamic_degree", 0.0, 1.0, "subject_consistency", weight=0.5),
    _quality("aesthetic_quality", 0.0, 1.0, "overall_consistency"),
    _quality("imaging_quality", 0.0, 1.0, "overall_consistency"),
    _semantic("object_class", 0.0, 1.0, auxiliary=True),
    _semantic("multiple_objects", 0.0, 1.0, auxiliary=True),
    _semantic("human_action", 0.0, 1.0),
    _semantic("color", 0.0, 1.0, auxiliary=True),
    _semantic("spatial_relationship", 0.0, 1.0, auxiliary=True),
    _semantic("scene", 0.0, 0.8222, auxiliary=True),
    _semantic("appearance_style", 0.0009, 0.2855, auxiliary=True),
    _semantic("temporal_style", 0.0, 0.3640),
    _semantic("overall_consistency", 0.0, 0.3640),
)
DIMENSIONS: Final = MappingProxyType({dimension.name: dimension for dimension in _ALL})
"""By name, in the order of the leaderboard's tables."""

QUALITY_WEIGHT: Final = 4.0
SEMANTIC_WEIGHT: Final = 1.0

FAST_SEVEN: Final = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "aesthetic_quality",
    "imaging_quality",
    "overall_consistency",
)
"""Metrics of the paper's fast protocol (C.1), the columns of its Table 7."""

FAST_FOUR: Final = ("subject_consistency", "aesthetic_quality", "imaging_quality", "overall_consistency")
"""Columns of Table 3, and what the Avg. columns of Tables 3 and 4 are the mean of, though C.1 speaks of all seven."""
