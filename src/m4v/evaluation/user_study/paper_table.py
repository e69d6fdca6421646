"""The paper's own study: Figure 7 and the table of B.3, as far as its printed digits are intact.

Values are half the mean rank over about fifteen raters: multiples of 1/30 whose five methods sum to 7.5 for every
prompt and criterion. Groups that do not have lost digits in print and are left out. Letters are not explained; B = M4V
and C = HunyuanVideo is the one reading that fits Sec. 4.3.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

METHODS = "ABCDE"
CRITERIA = ("aesthetic", "motion", "semantic")
_SUM = 7.5
_TOLERANCE = 2e-5


@dataclass(frozen=True, kw_only=True)
class PaperRanks:
    """Mean ranks by one criterion.

    Attributes:
        mean_ranks: By letter, 1 the best.
        num_prompts: Prompts whose five values are intact.
    """

    mean_ranks: dict[str, float]
    num_prompts: int

    def mean_win_rate(self, letter: str) -> float:
        """Share of comparisons with the others that a method wins, which complete rankings imply."""
        return (len(METHODS) - self.mean_ranks[letter]) / (len(METHODS) - 1)


def paper_ranks() -> dict[str, PaperRanks]:
    """Mean ranks from the intact groups, by criterion."""
    lines = files("m4v.evaluation.user_study").joinpath("paper_half_ranks.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    result = {}
    for criterion in CRITERIA:
        halves = np.array([[float(row[f"{criterion}_{letter}"]) for letter in METHODS] for row in rows])
        intact = halves[np.abs(halves.sum(1) - _SUM) < _TOLERANCE]
        means = 2 * intact.mean(0)
        result[criterion] = PaperRanks(
            mean_ranks=dict(zip(METHODS, map(float, means), strict=True)), num_prompts=len(intact)
        )
    return result
