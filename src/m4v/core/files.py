"""Writing files so that a reader finds the whole file or none."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from m4v.core.errors import UserError


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target` that becomes `target` on success and vanishes on failure.

    The temporary name keeps the suffix, since writers choose their format by it. Works for files and folders; an
    existing folder is replaced only after the new one is complete. Of a symbolic link, what it leads to is replaced.

    Raises:
        UserError: if the place cannot be written (missing permission, full disk, a file where a folder is needed), or
            is something that must not be replaced: a device, a pipe, the root of a disk.
    """
    try:
        place = Path(target).resolve()
        _require_replaceable(place)
        temporary = place.with_name(f".{place.stem}-{uuid.uuid4().hex[:8]}{place.suffix}")
        place.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # a link that leads to itself is a RuntimeError
        raise UserError(_cannot_write(target, error)) from error
    try:
        yield temporary
        if temporary.is_dir() and place.is_dir():
            _replace_folder(temporary, place)
        else:
            temporary.replace(place)
    except OSError as error:
        raise UserError(_cannot_write(target, error, place.parent)) from error
    finally:
        with contextlib.suppress(OSError):  # nothing to remove where nothing could be written
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _require_replaceable(place: Path) -> None:
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise UserError(f"Cannot write {place}: it is neither a file nor a folder. Choose another place.")
    if place.is_mount():
        raise UserError(f"Cannot write {place}: it is the root of a disk. Name a folder in it.")


def _replace_folder(new: Path, old: Path) -> None:
    """Exchange folders by renaming, so that an interruption at any moment leaves one of them whole in its place."""
    aside = new.with_name(f"{new.name}-old")
    try:
        old.replace(aside)
        new.replace(old)
    except BaseException:
        if aside.exists() and not old.exists():
            aside.replace(old)
        raise
    shutil.rmtree(aside)


def _cannot_write(target: Path | str, error: Exception, own_folder: Path | None = None) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    culprit = getattr(error, "filename", None)
    # A file elsewhere was only to be read: the place is not to blame.
    if own_folder and isinstance(culprit, str) and not Path(culprit).resolve().is_relative_to(own_folder):
        return f"Cannot write {target}, since {culprit} cannot be read: {reason}. Check that file."
    return f"Cannot write {target}: {reason}. Choose another place or free some space."


def existing_ancestor(path: Path | str) -> Path:
    """Find the path itself or the nearest folder above it that exists."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require_free_space(target: Path | str, num_bytes: int) -> None:
    """Check that the disk of a place has room for what will be written there.

    Raises:
        UserError: with what is needed and what is free.
    """
    folder = existing_ancestor(target)
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{target} needs {num_bytes / 2**30:.1f} GiB, but the disk of {folder} has {free / 2**30:.1f} GiB free. "
            "Choose another place or free some space."
        )
