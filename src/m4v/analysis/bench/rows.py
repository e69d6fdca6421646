"""What a part of the benchmark reports: rows of measurements, and what it found worth saying."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        setting: What was measured: length, dtype, device and so on.
        ms: Milliseconds by contender; key `<name>_ms` in the JSON.
        peak_mib: Peak memory by contender; key `<name>_peak_mib`.
        figures: What follows from them: floors, ratios, bounds.
        problems: Why a contender is missing.
    """

    setting: Mapping[str, Any]
    ms: Mapping[str, float] = field(default_factory=dict)
    peak_mib: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Scalar] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Flat JSON object, numbers to five significant digits."""
        flat: dict[str, Any] = dict(self.setting)
        flat |= {f"{name}_ms": value for name, value in self.ms.items()}
        flat |= {f"{name}_peak_mib": value for name, value in self.peak_mib.items()}
        flat |= self.figures
        if self.problems:
            flat["problems"] = dict(self.problems)
        return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in flat.items()}


@dataclass(kw_only=True)
class PartReport:
    """Outcome of one part, filled while it runs.

    Attributes:
        rows: Measurements.
        notes: Conventions and findings, one sentence each.
        left_out: What the time budget or the machine did not allow.
        checks: Relative errors found before timing, by what was checked.
        figures: Results that concern no single row, such as a break-even length.
        on_row: Called after every row, so that what was measured can be kept.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Scalar] = field(default_factory=dict)
    on_row: Callable[[], None] = lambda: None

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)
        self.on_row()

    def to_plain(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "rows": [row.to_plain() for row in self.rows],
            "figures": dict(self.figures),
            "checks": {name: float(f"{value:.3g}") for name, value in self.checks.items()},
            "notes": self.notes,
            "left_out": self.left_out,
        }
