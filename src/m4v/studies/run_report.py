"""Everything about one training run as one HTML file that opens without a network: facts, curves, samples, scores."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from m4v.checkpoints.run_folder import RunFolder
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.studies.metric_lines import draw, group_charts, read_metrics

_MOST_MEDIA_BYTES = 24 * 2**20
_STYLE = """
:root { color-scheme: light dark; --line: #8885; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; }
h2 { margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; }
td { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
figure { margin: 0; display: inline-block; }
figcaption { font-size: .85rem; }
svg { width: 100%; }
svg text { font-size: 10px; fill: currentColor; }
.grid { stroke: var(--line); }
img, video { max-width: 100%; image-rendering: auto; }
pre { overflow: auto; background: #8881; padding: .7rem; }
"""


def write_report(run: Path, out: Path, scores: Sequence[Path] = ()) -> Path:
    """Write the report.

    Args:
        run: Run folder of `m4v train`.
        out: HTML file to write.
        scores: JSON files of other verbs (`evaluate`, `bench`) to show beside it.

    Raises:
        UserError: if the folder is no run, or a file cannot be read.
    """
    folder = RunFolder(run)
    if not folder.metrics.is_file():
        raise UserError(f"{run} has no metrics.jsonl; give the folder of a training run (m4v train --run DIR).")
    config = _json(folder.config) if folder.config.is_file() else {}
    facts = folder.export / "training.json"
    title = f"{config.get('name', run.name)} in {run.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *_section("Stages", _stages(_json(facts) if facts.is_file() else {})),
        *_section("Curves", _charts(folder.metrics)),
        *_section("Samples", _samples(folder.samples)),
        *(part for path in scores for part in _section(path.name, [_table(_flat(_json(path)))])),
        *_section("Settings", [f"<details><summary>config.json</summary><pre>{_pretty(config)}</pre></details>"]),
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def _section(title: str, content: Sequence[str]) -> Iterator[str]:
    if content:
        yield f"<h2>{escape(title)}</h2>"
        yield from content


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Expected JSON that a verb of m4v wrote.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a JSON object that a verb of m4v wrote.")
    return content


def _pretty(content: Any) -> str:
    return escape(json.dumps(content, indent=2))


def _stages(facts: Mapping[str, Any]) -> list[str]:
    rows = {
        f"{stage} {name}": value for stage, values in facts.get("stages", {}).items() for name, value in values.items()
    }
    rows |= {name: facts[name] for name in ("device", "torch", "commit") if facts.get(name)}
    rows |= {f"parameters {name}": value for name, value in facts.get("parameters", {}).items()}
    return [_table(rows)] if rows else []


def _charts(metrics: Path) -> list[str]:
    charts = group_charts(read_metrics(metrics))
    figures = "".join(f"<figure><b>{escape(chart.title)}</b>{draw(chart)}</figure>" for chart in charts)
    return [f'<div class="charts">{figures}</div>']


def _samples(folder: Path) -> list[str]:
    """Pictures and videos of the last sampling, pictures of the first; as much as a page can carry."""
    steps = sorted(path for path in folder.glob("step-*") if path.is_dir())
    if not steps:
        return []
    left = _MOST_MEDIA_BYTES
    parts, left_out = [], 0
    chosen = [(steps[-1], ("*.png", "*.mp4"))] + ([(steps[0], ("*.png",))] if len(steps) > 1 else [])
    for step, patterns in chosen:
        parts.append(f"<h3>{escape(step.name)}</h3>")
        for path in (file for pattern in patterns for file in sorted(step.glob(pattern))):
            size = path.stat().st_size
            if size > left:
                left_out += 1
                continue
            left -= size
            parts.append(_media(path))
    if left_out:
        parts.append(f"<p>{left_out} larger files are not in this page; they are in {escape(str(folder))}.</p>")
    return parts


def _media(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.name)
    if path.suffix == ".png":
        shown = f'<img src="data:image/png;base64,{data}" alt="{name}">'
    else:
        shown = f'<video src="data:video/mp4;base64,{data}" controls loop muted width="256"></video>'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Numbers and words by dotted name; long lists are counted."""
    if isinstance(content, Mapping):
        return {
            name: value
            for key, inner in content.items()
            for name, value in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    if isinstance(content, list) and (len(content) > 8 or any(isinstance(each, (dict, list)) for each in content)):
        return {prefix: f"{len(content)} entries"}
    return {prefix: content}


def _table(rows: Mapping[str, Any]) -> str:
    cells = [
        f'<tr><td>{escape(name)}</td><td class="{"n" if isinstance(value, (int, float)) else ""}">'
        f"{escape(_shown(value))}</td></tr>"
        for name, value in rows.items()
    ]
    return f"<table>{''.join(cells)}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
