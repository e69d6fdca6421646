"""Text files of data sets, read as UTF-8."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.data.source import UnusableClip

Row = tuple[str, Mapping[str, Any] | UnusableClip]
"""Where a row stands, and what it says."""


def read_text(path: Path) -> str:
    """Read a whole text file.

    Raises:
        UserError: if it cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Save it as UTF-8 text.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}). Save it again, or name another file.") from error


def json_list_rows(path: Path) -> Iterator[Row]:
    """Give the objects of a JSON list.

    Raises:
        UserError: if the file holds anything else than a list.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(
            f"{path} holds a JSON {type(content).__name__}; expected a list of objects, one for each video or image."
        )
    for number, row in enumerate(content, start=1):
        where = f"{path.name} item {number}"
        yield where, row if isinstance(row, dict) else _no_object(where)


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Give the objects of a file with one JSON object per line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path.name} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield where, UnusableClip("unreadable metadata row", where, str(error))
            continue
        yield where, row if isinstance(row, dict) else _no_object(where)


def _no_object(where: str) -> UnusableClip:
    return UnusableClip("unreadable metadata row", where, "not a JSON object")
