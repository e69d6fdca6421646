"""The trained models that travel inside the package, found without importing torch."""

import importlib.resources
from pathlib import Path

from m4v.core.errors import UserError

PREFERRED = ("toybox-xs", "toybox-m")


def bundled_root() -> Path:
    """Return the folder of the bundled models; it works from a source tree and from an installed wheel."""
    return Path(str(importlib.resources.files("m4v"))) / "bundled"


def bundled_models() -> dict[str, Path]:
    """List the bundled models by name."""
    root = bundled_root()
    if not root.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / "model_index.json").is_file()}


def default_bundled_model() -> str:
    """Name the model used when the user names none.

    Raises:
        UserError: if this installation carries no model.
    """
    names = list(bundled_models())
    for name in (*PREFERRED, *names):
        if name in names:
            return name
    raise UserError(
        "This installation carries no bundled model. Name a model folder or a hub model, or reinstall the package."
    )


def describe_bundled() -> str:
    """Name the bundled models in a phrase for messages."""
    return ", ".join(bundled_models()) or "none in this installation"
