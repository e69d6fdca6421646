"""`--json FILE` of the verbs that report: a file, or standard output for `-` and for no value."""

import json
import sys
from pathlib import Path
from typing import Any

from m4v.cli.output_paths import require_writable
from m4v.core.errors import UserError
from m4v.core.files import atomic_path

STANDARD_OUTPUT = "-"


def with_explicit_target(words: list[str]) -> list[str]:
    """Turn a bare `--json` into `--json -`, which argument parsers can read.

    The word after `--json` is its file unless it is another flag or a sentence with spaces.
    """
    result: list[str] = []
    for number, word in enumerate(words):
        result.append(word)
        if word == "--json":
            following = words[number + 1] if number + 1 < len(words) else "--"
            if following != STANDARD_OUTPUT and (following.startswith("-") or " " in following):
                result.append(STANDARD_OUTPUT)
    return result


def require_json_target(target: str | None) -> None:
    """Find out before the work whether a report can be written.

    Args:
        target: What the flag says; None: no report.

    Raises:
        UserError: if there is no name, or the place cannot be written.
    """
    if target == "":
        raise UserError("--json is empty; name a file, or give - for standard output.")
    if target not in (None, STANDARD_OUTPUT):
        require_writable(Path(target), "--json")


def write_json(target: str, report: Any) -> None:
    """Write a report.

    Args:
        target: A path, or `-` for standard output.
        report: JSON types.

    Raises:
        UserError: if the file cannot be written.
    """
    text = json.dumps(report, indent=2) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with atomic_path(Path(target)) as temporary:
        temporary.write_text(text, encoding="utf-8")
