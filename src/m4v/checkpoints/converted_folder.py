"""Model folders made from other folders: unchanged parts linked, what was done written down."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from m4v.checkpoints.json_tables import read_json
from m4v.core.errors import UserError

CONVERSION_RECORD = "conversion.json"


def require_new_target(source: Path, target: Path) -> None:
    """Check that a converted folder may take a place: a new one, an empty folder, or that of an older conversion.

    Raises:
        UserError: if the place holds something else, or lies in the source (or the source in it).
    """
    own, other = target.resolve(), source.resolve()
    if own == other or own in other.parents or other in own.parents:
        raise UserError(f"The target {target} overlaps the source {source}. Choose a folder beside it.")
    if target.is_file():
        raise UserError(f"The target {target} is a file. Name a folder.")
    if target.is_dir() and any(target.iterdir()) and not (target / CONVERSION_RECORD).is_file():
        raise UserError(f"The target {target} holds other files, which would be lost. Choose a new folder.")


def link_tree(source: Path, target: Path, skip: Collection[str] = ()) -> None:
    """Bring the files of a folder into another one: weights as hard links where the file system allows it, else copies.

    Small files are always copied, since editors and `save_pretrained` change them in place.

    Args:
        source: Folder to take from; links in it are followed, hidden entries left out.
        target: Folder to fill; made if needed.
        skip: Names right below `source` to leave out.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.name in skip or entry.name.startswith("."):
            continue
        if entry.is_dir():
            link_tree(entry, target / entry.name)
            continue
        if entry.suffix != ".safetensors" or not _is_linked(entry, target / entry.name):
            shutil.copyfile(entry, target / entry.name)


def _is_linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read what an earlier conversion wrote down; None if the folder was not converted."""
    path = folder / CONVERSION_RECORD
    return read_json(path) if path.is_file() else None
