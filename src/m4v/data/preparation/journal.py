"""What has been done already: rows appended as work finishes, so that a killed run goes on where it stood."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A JSONL file of finished work; the last row of a (kind, key) counts. Rows may come from several threads."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a row that an interruption cut is passed over, and the next one begins a new line."""
        self._path = path
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self._rows[row["kind"], row["key"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        self._needs_newline = bool(text) and not text.endswith("\n")

    def find(self, kind: str, key: str) -> dict[str, Any] | None:
        """Give the row, or None."""
        return self._rows.get((kind, key))

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Give all rows of a kind, in the order in which they were first written."""
        return [row for (row_kind, _), row in self._rows.items() if row_kind == kind]

    def add(self, kind: str, key: str, values: Mapping[str, Any]) -> None:
        """Append a row and push it out of this process."""
        row = {"kind": kind, "key": key, **values}
        with self._lock:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._needs_newline else "") + json.dumps(row) + "\n")
            self._needs_newline = False
            self._rows[kind, key] = row
