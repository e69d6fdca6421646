"""The length from which a mixer is never slower than attention."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from m4v.analysis.bench.rows import Row

BREAK_EVEN = "break-even length"
"""What names of these figures begin with."""


def break_even(ratios: Mapping[int, float]) -> int | None:
    """Length from which speed-ups stay at 1 or above, between measured lengths on a logarithmic scale.

    Args:
        ratios: Speed-up by length.

    Returns:
        The shortest measured length if all are at least 1; None if the longest is slower.
    """
    ordered = sorted(ratios.items(), reverse=True)
    above: tuple[int, float] | None = None
    for length, ratio in ordered:
        if ratio < 1:
            if above is None:
                return None
            share = -math.log(ratio) / (math.log(above[1]) - math.log(ratio))
            return round(math.exp(math.log(length) + share * (math.log(above[0]) - math.log(length))))
        above = (length, ratio)
    return None if above is None else above[0]


def break_evens(rows: Iterable[Row]) -> dict[str, int | None]:
    """Break-even lengths of whole mixers, by width, precision and pass."""
    groups: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in rows:
        if row.setting["scope"] == "whole mixer" and {"ours", "attention"} <= set(row.ms):
            key = (row.setting["width"], row.setting["dtype"], row.setting["pass"])
            groups.setdefault(key, {})[row.setting["length"]] = row.ms["attention"] / row.ms["ours"]
    found: dict[str, int | None] = {}
    for (width, dtype, direction), ratios in groups.items():
        found[f"{BREAK_EVEN}, width {width}, {dtype}, {direction}"] = break_even(ratios)
        # Where the shortest is faster already, the real one is shorter still.
        found[f"shortest length measured, width {width}, {dtype}, {direction}"] = min(ratios)
    return found
