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
    existing folder is replaced only after the new one is complete.

    Raises:
        UserError: if the place cannot be written (missing permission, full disk, a file where a folder is needed).
    """
    target = Path(target)
    temporary = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot write {target}: {reason}. Choose another place or free some space.") from error
    finally:
        with contextlib.suppress(OSError):  # nothing to remove where nothing could be written
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


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
