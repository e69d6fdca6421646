"""The report as a picture, from the JSON alone; matplotlib is optional."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from m4v.core.files import atomic_path

_NETWORK_KEYS = ("attention", "attention_frame_causal", "m4v", "m4v_frame_causal", "dual_mamba")
_MIXER_KEYS = ("ours", "attention", "attention_frame_causal", "mamba_ssm", "fla", "floor")
_COLOURS = {
    "ours": "C0",
    "m4v": "C0",
    "m4v_frame_causal": "C9",
    "attention": "C1",
    "attention_frame_causal": "C8",
    "dual_mamba": "C2",
    "mamba_ssm": "C3",
    "fla": "C4",
    "floor": "0.5",
}
"""The same in every panel."""


def why_no_plot() -> str | None:
    """What is missing for a picture, with the remedy; None if nothing is."""
    if find_spec("matplotlib") is None:
        remedy = 'pip install "m4v[report]"'
        return f"no plot was drawn: matplotlib is not installed ({remedy}); m4v bench report draws it later"
    return None


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with one panel per part that has something to show.

    Raises:
        UserError: if the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    panels = [panel for panel in _panels(document["parts"]) if panel[1]]
    num_rows = max((len(panels) + 1) // 2, 1)
    figure = Figure(figsize=(12, 4 * num_rows), layout="constrained")
    figure.suptitle(f"m4v bench, {document['device']}")
    all_axes = figure.subplots(num_rows, 2, squeeze=False).flatten()
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, lines, x_label, y_label, is_log) in zip(all_axes, panels, strict=False):
        for name, points in lines.items():
            points = sorted(points)
            style = "--" if name == "floor" else "-"
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                style,
                marker="o",
                markersize=3,
                label=name,
                color=_COLOURS[name],
            )
        if is_log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


Lines = dict[str, list[tuple[float, float]]]


def _panels(parts: Mapping[str, Any]) -> list[tuple[str, Lines, str, str, bool]]:
    """Title, lines, axis labels, and whether axes are logarithmic."""
    panels = []
    mixer = parts.get("mixer", {}).get("rows", [])
    for group in dict.fromkeys((row["scope"], row["pass"], row["width"], row["dtype"]) for row in mixer):
        rows = [row for row in mixer if (row["scope"], row["pass"], row["width"], row["dtype"]) == group]
        title = f"{group[0]}, {group[1]}, width {group[2]}, {group[3]}"
        panels.append((title, _lines(rows, _MIXER_KEYS, "length"), "tokens", "ms", True))
    denoiser = parts.get("denoiser", {}).get("rows", [])
    for level in sorted({row["level"] for row in denoiser}, reverse=True):
        rows = [row for row in denoiser if row["level"] == level and row["compiled"]]
        title = f"one evaluation, level {level}, batch 2, compiled"
        if len({row["unit"] for row in rows}) > 1:
            panels.append((title, _lines(rows, _NETWORK_KEYS, "unit"), "unit", "ms", False))
    generated = parts.get("generate", {}).get("rows", [])
    evaluations = [row for row in generated if row.get("kind") == "evaluation"]
    for level in sorted({row["level"] for row in evaluations}, reverse=True):
        rows = [row for row in evaluations if row["level"] == level]
        title = f"one evaluation in the loop, level {level}, with guidance"
        panels.append((title, _lines(rows, _NETWORK_KEYS, "unit"), "unit", "ms", False))
    videos = [row for row in generated if row.get("kind") == "video"]
    panels.append(("whole video", _lines(videos, _NETWORK_KEYS, "frames", "_seconds"), "frames", "seconds", False))
    return panels


def _lines(rows: list[dict[str, Any]], names: tuple[str, ...], x: str, suffix: str = "_ms") -> Lines:
    lines: Lines = {}
    for name in names:
        points = [(row[x], row[f"{name}{suffix}"]) for row in rows if f"{name}{suffix}" in row]
        if points:
            lines[name] = list(dict(reversed(points)).items())  # of repeated points the first
    return lines
