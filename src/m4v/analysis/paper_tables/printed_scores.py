"""Tables 1, 3, 5 and 7: the printed scores, and what their own arithmetic says of them.

Totals are recomputed from the printed Quality and Semantic scores (four parts to one, as VBench weighs them), means
from the printed columns.
"""

from dataclasses import dataclass
from typing import Final

QUALITY_SHARE: Final = 0.8
ROUNDING: Final = 0.0101
"""Quality, Semantic and Total are rounded to 0.01: recomputed totals may be off by 0.005 + 0.005, and by float."""


@dataclass(frozen=True, kw_only=True)
class TotalsRow:
    """One row of Table 1 or 5, in percent.

    Attributes:
        is_public: Whether it was trained on public data (Table 1).
        others: Motion smoothness, dynamic degree, aesthetic and imaging quality (Table 1).
    """

    name: str
    total: float
    quality: float
    semantic: float
    is_public: bool = True
    others: tuple[float, ...] = ()

    @property
    def recomputed(self) -> float:
        """Total from the other two."""
        return QUALITY_SHARE * self.quality + (1 - QUALITY_SHARE) * self.semantic

    @property
    def is_consistent(self) -> bool:
        """Whether rounding explains the difference."""
        return abs(self.recomputed - self.total) <= ROUNDING


@dataclass(frozen=True, kw_only=True)
class MeanRow:
    """One row of Table 3 or 7, in percent.

    Attributes:
        values: The printed columns.
        printed: The printed average; None where there is none (Table 7).
        four: Mean of subject consistency, aesthetic, imaging quality and overall consistency.
        seven: Mean of all seven metrics, where all are printed.
    """

    name: str
    values: tuple[float, ...]
    printed: float | None

    @property
    def four(self) -> float:
        """See the class."""
        chosen = self.values if len(self.values) == 4 else tuple(self.values[index] for index in (0, 4, 5, 6))
        return sum(chosen) / 4

    @property
    def seven(self) -> float | None:
        """See the class."""
        return sum(self.values) / 7 if len(self.values) == 7 else None


TABLE_1_COLUMNS: Final = ("motion smoothness", "dynamic degree", "aesthetic quality", "imaging quality")


def table_1() -> tuple[TotalsRow, ...]:
    """Table 1: VBench scores of fourteen models."""
    return tuple(
        TotalsRow(name=name, total=total, quality=quality, semantic=semantic, is_public=is_public, others=others)
        for name, is_public, (total, quality, semantic), others in _TABLE_1
    )


_TABLE_1: Final = (
    ("Gen-2", False, (80.58, 82.47, 73.03), (99.58, 18.89, 66.96, 67.42)),
    ("CogVideoX-5B", False, (81.61, 82.75, 77.04), (96.92, 70.97, 61.98, 62.90)),
    ("Kling", False, (81.85, 83.38, 75.68), (99.40, 46.94, 61.21, 65.62)),
    ("Gen-3 Alpha", False, (82.32, 84.11, 75.17), (99.23, 60.14, 63.34, 66.82)),
    ("HunyuanVideo", False, (83.24, 85.09, 75.82), (98.99, 70.83, 60.36, 67.56)),
    ("Wan2.1", False, (84.70, 85.64, 80.95), (96.92, 94.35, 61.53, 67.28)),
    ("VideoCrafter2", True, (80.44, 82.20, 73.42), (97.73, 42.50, 63.13, 67.22)),
    ("T2V-Turbo", True, (81.01, 82.57, 74.76), (97.34, 49.17, 63.04, 72.49)),
    ("Open-Sora Plan v1.1", True, (78.00, 80.91, 66.38), (98.28, 47.72, 56.85, 62.28)),
    ("Open-Sora 1.2", True, (79.76, 81.35, 73.39), (98.50, 42.39, 56.85, 63.34)),
    ("Pyramid Flow", True, (81.72, 84.74, 69.62), (99.12, 64.63, 63.26, 65.01)),
    ("Pyramid Flow, reproduced", True, (81.61, 83.54, 73.90), (99.32, 66.66, 63.96, 61.69)),
    ("M4V (Pyramid Flow)", True, (81.55, 83.31, 74.47), (99.33, 60.55, 64.08, 62.22)),
    ("M4V (Wan2.1)", True, (86.14, 87.56, 80.45), (99.18, 96.70, 67.52, 65.62)),
)


def table_5() -> tuple[TotalsRow, ...]:
    """Table 5: reward learning and generated data."""
    rows = (
        ("plain", 81.55, 83.31, 74.47),
        ("reward learning", 81.71, 83.32, 75.27),
        ("generated data", 81.59, 83.35, 74.52),
        ("both", 81.91, 83.36, 76.10),
    )
    return tuple(
        TotalsRow(name=name, total=total, quality=quality, semantic=semantic) for name, total, quality, semantic in rows
    )


def table_3() -> tuple[MeanRow, ...]:
    """Table 3: text re-composition, registers and temporal branch, by the fast protocol."""
    rows = (
        ("none", (93.28, 46.60, 63.16, 19.77), 55.70),
        ("text", (92.19, 45.39, 54.83, 21.23), 53.41),
        ("registers", (95.41, 48.69, 64.18, 18.86), 56.79),
        ("text, registers", (93.53, 49.82, 63.79, 21.26), 57.10),
        ("text, registers, temporal branch", (95.67, 51.25, 66.38, 21.68), 58.75),
    )
    return tuple(MeanRow(name=name, values=values, printed=printed) for name, values, printed in rows)


def table_7() -> tuple[MeanRow, ...]:
    """Table 7: self-quality guidance, with all seven metrics of the fast protocol."""
    rows = (
        ("without self-guidance", (95.66, 96.11, 98.62, 99.38, 63.61, 64.69, 23.89)),
        ("with self-guidance", (95.60, 96.12, 98.61, 99.38, 63.89, 66.38, 26.62)),
    )
    return tuple(MeanRow(name=name, values=values, printed=None) for name, values in rows)


TABLE_4_SCORES: Final = {
    "Full Attn": 59.84,
    "Parallel": 59.97,
    "Post-half": 58.17,
    "Pre-half": 58.69,
    "Interleaved": 58.60,
    "Full": 57.10,
    "Full+Temp-Branch": 58.75,
}
"""Avg. Score of Table 4."""

REMARKS: Final = {
    1: (
        "Every total follows from Quality and Semantic within rounding; Kling is at the edge, as its Quality is "
        "printed 83.38 here and 83.39 elsewhere.",
        "The caption says that bold marks the best model trained on public data, but Gen-2, which is proprietary, has "
        "the bold motion smoothness; among the public rows M4V (Pyramid Flow) is best with 99.33. Wan2.1 and "
        "CogVideoX-5B print the same motion smoothness, 96.92.",
        "M4V (Wan2.1) is described as better than Wan2.1, but its Semantic score and imaging quality are lower.",
    ),
    3: (
        "Avg. is the mean of the four printed columns in every row.",
        "Imaging quality moves by 11.5 points between rows, the others by 2.8 to 5.9: the average is mostly imaging "
        "quality. No intervals are given.",
    ),
    5: (
        "Its plain row is M4V (Pyramid Flow) of Table 1. Both measures together add 0.36, the single ones 0.16 and "
        "0.04.",
    ),
    7: (
        "C.1 calls the Avg. of Table 4 the mean of all seven metrics. Its rows Full and Full+Temp-Branch equal rows of "
        "Table 3, whose Avg. is that of four; a mean of seven would be near 75 there, as it is 77 and 78 here. So "
        "Table 4 is a mean of four as well.",
    ),
}
