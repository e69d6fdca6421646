"""Quality, Semantic and Total from the 16 raw scores (Table 1 and 5 of the paper use them)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m4v.core.errors import UserError
from m4v.evaluation.vbench.dimensions import DIMENSIONS, QUALITY_WEIGHT, SEMANTIC_WEIGHT, Dimension, Group


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The leaderboard's numbers, in percent.

    Attributes:
        quality: Weighted mean of the seven quality dimensions.
        semantic: Mean of the nine semantic dimensions.
        total: Four parts quality, one part semantic.
        raw: Raw scores, 0 to 1, by dimension.
        normalised: The same on the scale of the totals; not clamped.
    """

    quality: float
    semantic: float
    total: float
    raw: Mapping[str, float]
    normalised: Mapping[str, float]

    def to_plain(self) -> dict[str, Any]:
        """JSON types, in percent but for `raw`."""
        return {
            "quality": round(self.quality, 4),
            "semantic": round(self.semantic, 4),
            "total": round(self.total, 4),
            "raw": dict(self.raw),
            "normalised": {name: round(100 * value, 4) for name, value in self.normalised.items()},
        }


def totals(raw: Mapping[str, float]) -> Totals:
    """Compute the totals.

    Args:
        raw: Raw score, 0 to 1, of every dimension.

    Raises:
        UserError: if a dimension is missing or unknown, or a score is not a share. VBench's own script would take a
            missing one as raw 0, which lowers the totals in silence.
    """
    missing = [name for name in DIMENSIONS if name not in raw]
    unknown = [name for name in raw if name not in DIMENSIONS]
    if missing or unknown:
        raise UserError(
            f"Totals need the {len(DIMENSIONS)} dimensions of VBench; "
            + "; ".join(
                part
                for part in (
                    f"missing: {', '.join(missing)}" if missing else "",
                    f"unknown: {', '.join(unknown)}" if unknown else "",
                )
                if part
            )
            + ". Evaluate what is missing, or ask for single dimensions only."
        )
    for name, value in raw.items():
        if not 0 <= value <= 1:
            raise UserError(
                f"{name} is {value}; expected a raw score from 0 to 1 as VBench writes it (imaging_quality, too: its "
                "single videos are on 0 to 100, its aggregate is not)."
            )
    normalised = {name: dimension.normalise(raw[name]) for name, dimension in DIMENSIONS.items()}
    quality, semantic = _mean("quality", normalised), _mean("semantic", normalised)
    return Totals(
        quality=quality,
        semantic=semantic,
        total=(QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT),
        raw={name: raw[name] for name in DIMENSIONS},
        normalised=normalised,
    )


def _mean(group: Group, normalised: Mapping[str, float]) -> float:
    members: list[Dimension] = [dimension for dimension in DIMENSIONS.values() if dimension.group == group]
    weights = sum(dimension.weight for dimension in members)
    return 100 * sum(dimension.weight * normalised[dimension.name] for dimension in members) / weights
