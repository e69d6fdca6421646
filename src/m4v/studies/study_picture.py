"""The picture of a study: training curves of the arms, and what they were measured by."""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4v.core.files import atomic_path
from m4v.training.curves import smoothed

logger = logging.getLogger(__name__)


def write_picture(results: Mapping[str, Any], target: Path) -> Path | None:
    """Draw a study; without Matplotlib one line is logged.

    Args:
        results: What `run_study` gives.
        target: PNG file to write.

    Raises:
        UserError: if the place cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("No %s: drawing needs Matplotlib; install it with pip install 'm4v[report]'.", target.name)
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms: Mapping[str, Mapping[str, Any]] = results["arms"]
    colours = {arm: f"C{number}" for number, arm in enumerate(arms)}
    first = next(iter(arms.values()))
    panels = ["curves"] + [name for name in ("held_out", "drift", "scores") if name in first]
    panels += ["oracle"] if "drift" in first else []
    figure = Figure(figsize=(5.0 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(results["title"], fontsize=10)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _DRAW[panel](axis, results, colours)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=100)
    return target


def _draw_curves(axis: Any, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    named: set[str] = set()
    for trial in results["trials"].values():
        for stage, curve in trial["curves"].items():
            if stage == "match":
                continue  # another unit: share of the teacher's power
            label = None if trial["arm"] in named else trial["arm"]
            named.add(trial["arm"])
            axis.plot(curve["steps"], smoothed(curve["loss"]), color=colours[trial["arm"]], alpha=0.8, label=label)
    axis.set(title="training loss, one line per seed", xlabel="step", yscale="log")
    axis.legend(fontsize="small")


def _draw_held_out(axis: Any, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    for arm, summary in results["arms"].items():
        units = sorted(int(name.split("-")[-1]) for name in summary["held_out"] if name.startswith("loss/unit-"))
        losses = [summary["held_out"][f"loss/unit-{unit}"] for unit in units]
        axis.plot(units, losses, marker="o", color=colours[arm], label=f"{arm}: {summary['held_out_loss']['mean']:.3f}")
    axis.set(title="held-out loss by unit", xlabel="unit")
    axis.legend(fontsize="small")


def _draw_drift(axis: Any, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    for arm, summary in results["arms"].items():
        axis.plot(summary["drift"]["background_psnr"], marker="o", color=colours[arm], label=f"{arm}: background")
        axis.plot(summary["drift"]["psnr"], linestyle=":", color=colours[arm])
    axis.set(title="drift: background (solid), whole picture (dotted)", xlabel="unit", ylabel="dB")
    axis.legend(fontsize="small")


def _draw_oracle(axis: Any, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    for arm, summary in results["arms"].items():
        axis.plot(summary["drift"]["oracle"], marker="o", color=colours[arm], label=arm)
    axis.set(title="object and colour still seen", xlabel="unit", ylim=(-0.05, 1.05))
    axis.legend(fontsize="small")


def _draw_scores(axis: Any, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    arms = list(results["arms"])
    for number, name in enumerate(("colour", "object", "motion")):
        shares = [results["arms"][arm]["scores"]["seen"][name] for arm in arms]
        axis.plot(range(len(arms)), shares, marker="o", color=f"C{number}", label=name)
    axis.set_xticks(range(len(arms)), arms, rotation=20)
    axis.set(title="judge: share right, seen prompts", ylim=(-0.05, 1.05))
    axis.legend(fontsize="small")


_DRAW = {
    "curves": _draw_curves,
    "held_out": _draw_held_out,
    "drift": _draw_drift,
    "oracle": _draw_oracle,
    "scores": _draw_scores,
}
