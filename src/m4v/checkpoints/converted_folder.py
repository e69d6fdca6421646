"""Model folders made from other folders: unchanged parts linked, what was done written down."""

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from m4v.checkpoints.json_tables import read_json, write_json
from m4v.core.errors import UserError, shorten

CONVERSION_RECORD = "conversion.json"


def require_new_target(source: Path, target: Path) -> None:
    """Check that a converted folder may take a place: a new one, an empty folder, or that of an older conversion.

    Raises:
        UserError: if the place holds something else, lies in the source (or the source in it), or cannot be looked at.
    """
    try:
        _check_target(source, target)
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror or error}. Choose another place.") from error


def _check_target(source: Path, target: Path) -> None:
    own, other = target.resolve(), source.resolve()
    if own == other or own in other.parents or other in own.parents:
        raise UserError(f"The target {target} overlaps the source {source}. Choose a folder beside it.")
    if target.is_file():
        raise UserError(f"The target {target} is a file. Name a folder.")
    found = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if not found:
        return
    written = (read_record(target) or {}).get("entries")
    # What was added since, such as an autoencoder copied in by hand, is nobody's to delete.
    others = sorted(found - set(written)) if isinstance(written, list) else sorted(found)
    if others:
        raise UserError(
            f"The target {target} holds other files, which would be lost: {shorten(others)}. Choose a new folder."
        )


def link_tree(source: Path, target: Path, skip: Collection[str] = ()) -> None:
    """Bring the files of a folder into another one: weights as hard links where the file system allows it, else copies.

    Small files are always copied, since editors and `save_pretrained` change them in place.

    Args:
        source: Folder to take from; links in it are followed, hidden entries left out.
        target: Folder to fill; made if needed.
        skip: Names right below `source` to leave out.

    Raises:
        UserError: if a link leads nowhere.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.name in skip or entry.name.startswith("."):
            continue
        if entry.is_dir():
            link_tree(entry, target / entry.name)
            continue
        if not entry.is_file():
            raise UserError(f"{entry} cannot be read: its link leads nowhere. Download the files again.")
        if entry.suffix != ".safetensors" or not _is_linked(entry, target / entry.name):
            shutil.copyfile(entry, target / entry.name)


def _is_linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write down what a conversion did, and what is in the folder by now: call it last."""
    entries = sorted({CONVERSION_RECORD, *(entry.name for entry in folder.iterdir())})
    write_json(folder / CONVERSION_RECORD, {**record, "entries": entries})


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read what an earlier conversion wrote down; None if the folder was not converted."""
    path = folder / CONVERSION_RECORD
    return read_json(path) if path.is_file() else None
