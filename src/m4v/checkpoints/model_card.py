"""The page beside the weights: how to use a model, and how it came to be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4v.checkpoints.json_tables import read_json

TRAINING_FACTS = "training.json"
MODEL_CARD = "README.md"

_HEADER = """\
---
library_name: diffusers
pipeline_tag: text-to-video
license: apache-2.0
tags:
  - m4v
  - mamba
  - video-generation
---

# {name}

A text-to-video model of the M4V family ({kind}; arXiv 2506.10915), saved by the `m4v` package.

```
m4v generate "a sentence" --model {name}
```

```python
from m4v import {pipeline}

frames = {pipeline}.from_pretrained("{name}")("a sentence", seed=0).frames
```
"""

_KINDS = {
    "M4VPipeline": "Mamba-2 token mixing, pyramid flow matching",
    "WanM4VPipeline": "Mamba-2 token mixing on the Wan2.1 base, flow matching on whole clips",
}


def write_model_card(
    folder: Path,
    name: str,
    defaults: Mapping[str, Any],
    training_facts: Mapping[str, Any] | None,
    pipeline: str = "M4VPipeline",
) -> None:
    """Write `README.md`, and `training.json` when there are facts to keep, into a model folder.

    Args:
        folder: The model folder.
        name: What the model is called.
        defaults: Recommended generation settings.
        training_facts: JSON values, nested as you like: recipe, commit, steps, data, hours, scores.
        pipeline: Class that opens the folder: `M4VPipeline` or `WanM4VPipeline`.
    """
    parts = [
        _HEADER.format(name=name, pipeline=pipeline, kind=_KINDS[pipeline]),
        _section("Recommended settings", defaults),
    ]
    if training_facts:
        parts.append(_section("How it was trained", training_facts))
        facts = json.dumps(dict(training_facts), indent=2, sort_keys=True)
        (folder / TRAINING_FACTS).write_text(facts + "\n", encoding="utf-8")
    else:
        parts.append("## How it was trained\n\nNothing was recorded.\n")
    (folder / MODEL_CARD).write_text("\n".join(parts), encoding="utf-8")


def read_training_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of a model folder; empty if none were recorded.

    Raises:
        UserError: if the file is there but is not a JSON table.
    """
    path = folder / TRAINING_FACTS
    if not path.is_file():
        return {}
    return read_json(path)


def _section(title: str, facts: Mapping[str, Any]) -> str:
    rows = [f"| {key} | {_cell(value)} |" for key, value in _flatten(facts)]
    return "\n".join([f"## {title}", "", "| what | value |", "|---|---|", *rows, ""])


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ") or "(empty)"
