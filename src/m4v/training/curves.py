"""Curves of a run, drawn from its `metrics.jsonl`: loss over steps by pyramid level, loss by unit, learning rate.

Fig. 8 of the paper judges a mixture by what becomes of later frames; the loss by unit shows that while it happens.
"""

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m4v.core.files import atomic_path

logger = logging.getLogger(__name__)

CURVES = "curves.png"
"""Name of the picture in a run folder."""

_BY_LEVEL, _BY_UNIT = "loss/level-", "loss/unit-"
_PARTS = 3
"""Parts of a stage whose losses by unit are compared."""

_LEAST_LINES = 10
"""Lines below which there is no curve to see."""

_SMOOTHING = 0.1
"""Share of a curve's points that one point of the smooth line is the mean of."""


@dataclass
class StageCurves:
    """Numbers of one stage, in the order they were logged.

    Attributes:
        name: Stage.
        steps: Global step of every line that has a loss.
        values: Named numbers of these lines; a line may lack a name.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    values: list[Mapping[str, float]] = field(default_factory=list)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one number."""
        pairs = [(step, line[name]) for step, line in zip(self.steps, self.values, strict=True) if name in line]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self, prefix: str) -> list[str]:
        """Names that begin with a prefix, by the number that follows it."""
        found = {name for line in self.values for name in line if name.startswith(prefix)}
        return sorted(found, key=lambda name: int(name.removeprefix(prefix)))

    def by_unit(self, part: slice) -> dict[int, float]:
        """Mean loss of every unit over some of the lines."""
        chosen = self.values[part]
        means = {}
        for name in self.names(_BY_UNIT):
            losses = [line[name] for line in chosen if name in line]
            if losses:
                means[int(name.removeprefix(_BY_UNIT))] = sum(losses) / len(losses)
        return means


def read_curves(metrics: Path) -> list[StageCurves]:
    """Read the stages of a run; lines without a loss, and a last line cut off by a crash, are passed over."""
    stages: dict[str, StageCurves] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry.get("loss"), float | int):
            continue
        stage = stages.setdefault(str(entry["stage"]), StageCurves(str(entry["stage"])))
        stage.steps.append(int(entry["step"]))
        stage.values.append({key: float(value) for key, value in entry.items() if isinstance(value, float | int)})
    return list(stages.values())


def summary(metrics: Path) -> str:
    """Say in a few lines what the curves show: loss at the beginning and end of every stage, by level and by unit."""
    lines = []
    for stage in read_curves(metrics):
        third = max(len(stage.steps) // _PARTS, 1)
        first, last = slice(0, third), slice(-third, None)
        losses = [line["loss"] for line in stage.values]
        change = f"loss {_mean(losses[first]):.4g} -> {_mean(losses[last]):.4g}"
        lines.append(f"{stage.name}: {change} over {len(losses)} lines up to step {stage.steps[-1]}")
        for title, prefix in (("level", _BY_LEVEL), ("unit", _BY_UNIT)):
            parts = []
            for name in stage.names(prefix):
                _, values = stage.series(name)
                own = max(len(values) // _PARTS, 1)
                parts.append(f"{name.removeprefix(prefix)}: {_mean(values[:own]):.3g} -> {_mean(values[-own:]):.3g}")
            if parts:
                lines.append(f"  by {title}: {', '.join(parts)}")
    return "\n".join(lines)


def write_curves(metrics: Path, target: Path) -> Path | None:
    """Draw the curves of a run.

    Without Matplotlib one line is logged; a run that has hardly begun gives nothing.

    Args:
        metrics: The run's `metrics.jsonl`.
        target: PNG file to write.

    Returns:
        The file, or None.

    Raises:
        UserError: if the place cannot be written.
    """
    stages = read_curves(metrics) if metrics.is_file() else []
    if sum(len(stage.steps) for stage in stages) < _LEAST_LINES:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("No %s: drawing needs Matplotlib; install it with pip install 'm4v[report]'.", target.name)
        return None
    # Figure objects without pyplot: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.2 * len(stages)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stages), 3, squeeze=False)
    for row, stage in zip(axes, stages, strict=True):
        _draw_by_level(row[0], stage)
        _draw_by_unit(row[1], stage)
        _draw_rate(row[2], stage)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=100)
    return target


def _draw_by_level(axis: Any, stage: StageCurves) -> None:
    names = stage.names(_BY_LEVEL)
    for number, name in enumerate(names or ["loss"]):
        steps, losses = stage.series(name)
        colour = f"C{number}"
        axis.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(steps, smoothed(losses), color=colour, label=name.removeprefix("loss/"))
    positive = all(value > 0 for line in stage.values for key, value in line.items() if key.startswith("loss"))
    axis.set(title=f"{stage.name}: loss", xlabel="step", yscale="log" if positive else "linear")
    axis.legend(fontsize="small")


def _draw_by_unit(axis: Any, stage: StageCurves) -> None:
    third = max(len(stage.steps) // _PARTS, 1)
    for part in range(_PARTS):
        chosen = slice(part * third, (part + 1) * third if part < _PARTS - 1 else None)
        means = stage.by_unit(chosen)
        if means:
            axis.plot(list(means), list(means.values()), marker="o", label=f"part {part + 1} of {_PARTS}")
    if stage.names(_BY_UNIT):
        axis.legend(fontsize="small")
        axis.set(title=f"{stage.name}: loss by unit", xlabel="unit")
    else:
        axis.set_axis_off()


def _draw_rate(axis: Any, stage: StageCurves) -> None:
    steps, norms = stage.series("grad_norm")
    if norms:
        axis.plot(steps, norms, color="C3", linewidth=0.8, label="gradient norm")
        axis.set_yscale("log" if min(norms) > 0 else "linear")
    twin = axis.twinx()
    twin.plot(*stage.series("lr"), color="C7", label="learning rate")
    axis.set(title=f"{stage.name}: gradient norm and learning rate (grey)", xlabel="step")


def smoothed(values: Sequence[float]) -> list[float]:
    """Centred running means over a tenth of the values; as long as the values."""
    half = max(int(len(values) * _SMOOTHING) // 2, 0)
    return [_mean(values[max(place - half, 0) : place + half + 1]) for place in range(len(values))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
