"""JSON tables of model folders, torch-free: configurations, indices, records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON table.

    Raises:
        UserError: if it is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Restore or download it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a table. Restore or download it again.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON table as the model libraries do."""
    path.write_text(json.dumps(dict(value), indent=2, sort_keys=True) + "\n", encoding="utf-8")
