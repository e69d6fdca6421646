"""Numbers of `metrics.jsonl` as small line charts in SVG: they open anywhere, scale, and need no library."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from m4v.core.errors import UserError

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 210, 58, 24, 8
_COLOURS = ("#2467c9", "#c8501e", "#2a8a4a", "#8a3fb0", "#b8860b", "#14808a", "#c02a5c", "#5a6472")
_MOST_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines that share axes.

    Attributes:
        title: What is shown.
        lines: Points by label.
        is_logarithmic: Whether the vertical axis is.
    """

    title: str
    lines: Mapping[str, Points]
    is_logarithmic: bool


def read_metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Read all numbers by name as (step, value); a last line that was cut off is left out.

    Raises:
        UserError: if the file cannot be read or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Give the folder of a training run.") from error
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = float(entry["step"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            if number == len(lines):
                continue
            raise UserError(f"Line {number} of {path} is no metric entry: {error}.") from error
        for name, value in entry.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name not in ("step", "stage_step") and is_number:
                found.setdefault(name, []).append((step, float(value)))
    if not found:
        raise UserError(f"{path} holds no numbers yet; train some steps first.")
    return found


def group_charts(metrics: Mapping[str, Points]) -> list[Chart]:
    """One chart per group of names: `loss/unit-0` and `loss/unit-1` share one, `lr` has its own; losses come first."""
    groups: dict[str, dict[str, Points]] = {}
    for name, points in metrics.items():
        group = name.rsplit("-", 1)[0] if "/" in name and name.rsplit("-", 1)[-1].isdigit() else name.split("/", 1)[0]
        groups.setdefault(group, {})[name] = points
    names = sorted(groups, key=lambda group: (not group.startswith("loss"), "/" in group, group))
    return [
        Chart(title=group, lines=groups[group], is_logarithmic=_spans_decades(groups[group].values()))
        for group in names
    ]


def _spans_decades(lines: Iterable[Points]) -> bool:
    values = [value for points in lines for _, value in points]
    return min(values) > 0 and max(values) > 8 * min(values)


def draw(chart: Chart) -> str:
    """Write the chart as an SVG element with its legend."""
    lines = {label: _thinned(points) for label, points in chart.lines.items()}
    scale = math.log10 if chart.is_logarithmic else float
    xs = [x for points in lines.values() for x, _ in points]
    ys = [scale(y) for points in lines.values() for _, y in points]
    (x_low, x_high), (y_low, y_high) = _range(xs), _range(ys)

    def place(x: float, y: float) -> str:
        right = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - 8)
        down = _TOP + (y_high - scale(y)) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{right:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for share in (0.0, 0.5, 1.0):
        value = y_low + share * (y_high - y_low)
        shown = 10**value if chart.is_logarithmic else value
        down = _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{down:.1f}" y2="{down:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{shown:.3g}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{x_low:g}</text>')
    parts.append(f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">step {x_high:g}</text>')
    for number, points in enumerate(lines.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    legend = " ".join(
        f'<span style="color:{_COLOURS[number % len(_COLOURS)]}">&#9632;</span> {escape(label)} '
        f"<b>{lines[label][-1][1]:.4g}</b>"
        for number, label in enumerate(lines)
    )
    return "".join(parts) + f"</svg><figcaption>{legend}</figcaption>"


def _thinned(points: Points) -> Points:
    """Means of equal stretches, where there are more points than a chart can show."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / _MOST_POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low - 0.5, high + 0.5) if low == high else (low, high)
