"""The report as tables, from the JSON alone: Markdown, which is readable on a console as it is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TITLES = {
    "correctness": "Correctness",
    "mixer": "Mixer",
    "denoiser": "One evaluation of the denoiser",
    "generate": "Whole videos",
    "wan": "Wan2.1 shapes",
    "train": "Training step",
}
_APART = {"_eager_ms": "Launched call by call, ms", "_peak_mib": "Peak memory, MiB"}
"""Columns with tables of their own, which would be too wide together."""
_HIDDEN = ("device", "dtype", "problems", "width", "heads", "tolerance")


def markdown(document: Mapping[str, Any]) -> list[str]:
    """Lines of the whole report."""
    lines = [f"# m4v bench on {document['device']}", "", *_aim_lines(document.get("aims", []))]
    for name, part in document["parts"].items():
        lines += ["", f"## {_TITLES.get(name, name)}", "", _where(part), ""]
        if part.get("unfinished"):
            lines += ["Interrupted: what follows was measured until then.", ""]
        if "failure" in part:
            lines += [f"Failed: {part['failure']}", ""]
        lines += part_tables(part)
        for figure, value in part["figures"].items():
            lines.append(f"- {figure}: {_cell(value)}")
        if part["checks"]:
            worst = ", ".join(f"{check} {value:.1e}" for check, value in part["checks"].items())
            lines.append(f"- checked before timing, relative errors: {worst}")
        lines += [f"- {note}" for note in part["notes"]]
        lines += [f"- left out: {left}" for left in part["left_out"]]
    return lines


def part_tables(part: Mapping[str, Any]) -> list[str]:
    """One table for every kind of row of a part, then what went wrong."""
    lines: list[str] = []
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in part["rows"]:
        kind = str(row.get("kind") or ", ".join(str(row[key]) for key in ("scope", "pass") if key in row))
        if "scope" in row:
            kind += f", width {row['width']}, {row['dtype']}"
        kinds.setdefault(kind, []).append(row)
    for kind, rows in kinds.items():
        if kind:
            lines += [f"### {kind}", ""]
        hidden = (*_HIDDEN, "kind", "scope", "pass")
        every = list(dict.fromkeys(key for row in rows for key in row if key not in hidden))
        keys = [key for key in every if not key.endswith(tuple(_APART))]
        ordered = sorted(rows, key=lambda row: row["length"]) if all("scope" in row for row in rows) else rows
        lines += [*table(keys, ([row.get(key) for key in keys] for row in ordered)), ""]
        settings = [key for key in keys if not any(isinstance(row.get(key), float) for row in rows)]
        for suffix, title in _APART.items():
            if chosen := [key for key in every if key.endswith(suffix)]:
                lines += [f"{title}:", ""]
                columns = [*settings, *chosen]
                short = [key.removesuffix(suffix) for key in columns]
                lines += [*table(short, ([row.get(key) for key in columns] for row in ordered)), ""]
    for row in part["rows"]:
        for name, problem in row.get("problems", {}).items():
            place = ", ".join(
                f"{key} {row[key]}" for key in ("scope", "pass", "length", "unit", "level", "case") if key in row
            )
            lines.append(f"- {place}: {name}: {problem}")
    return lines


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table with aligned columns: words to the left, numbers to the right."""
    values = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in values]
    widths = [max([len(name), 3, *(len(row[number]) for row in cells)]) for number, name in enumerate(header)]
    are_words = [bool(values) and all(isinstance(row[number], str) for row in values) for number in range(len(header))]
    rule = (
        f":{'-' * (width + 1)}" if words else f"{'-' * (width + 1)}:"
        for width, words in zip(widths, are_words, strict=True)
    )
    lines = [_line(header, widths, are_words), "|" + "|".join(rule) + "|"]
    return lines + [_line(row, widths, are_words) for row in cells]


def _line(cells: Sequence[str], widths: Sequence[int], are_words: Sequence[bool]) -> str:
    aligned = (
        cell.ljust(width) if words else cell.rjust(width)
        for cell, width, words in zip(cells, widths, are_words, strict=True)
    )
    return "| " + " | ".join(aligned) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _where(part: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items() if version)
    rates = part["rates"]
    return (
        f"{part['device']}, {part['date']}, commit {part['commit']}, {versions}; size {part['size']}, "
        f"{part['seconds']:.0f} s{', brief' if part.get('brief') else ''}; copy {rates['copy_gb_per_s']:,} GB/s, "
        f"matrix products {rates['matmul_tflop_per_s']:,} TFLOP/s."
    )


def _aim_lines(aims: Sequence[Mapping[str, Any]]) -> list[str]:
    if not aims:
        return ["A rehearsal: no aim is measured at this size."]
    verdicts = {True: "pass", False: "MISS", None: ""}
    rows = [
        (aim["measure"], aim["aim"], aim["measured"], aim["bound"],
         verdicts[aim["passed"]] if aim["measured"] is not None else "not measured")
        for aim in aims
    ]  # fmt: skip
    return table(("measure", "aim", "measured", "bound", ""), rows)
