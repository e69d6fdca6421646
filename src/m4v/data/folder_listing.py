"""Which files of a dataset folder are clips and what their captions are, before any of them is decoded."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m4v.core.errors import UserError
from m4v.data.source import UnusableClip
from m4v.media.images import IMAGE_SUFFIXES
from m4v.media.video import VIDEO_SUFFIXES

# The first name present wins. They are the ones that the public trainers of this field use.
PATH_COLUMNS = ("media_path", "video", "video_path", "path", "file_name", "image", "image_path")
CAPTION_COLUMNS = ("caption", "text", "cap", "prompt")
CAPTION_LIST_COLUMN = "captions"

MissingCaption = Literal["skip", "empty"]


@dataclass(frozen=True)
class FolderEntry:
    """One file with its captions; `name` is its path as the folder gives it, for messages."""

    path: Path
    name: str
    captions: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        """Whether the file is a still image, by its suffix."""
        return self.path.suffix.lower() in IMAGE_SUFFIXES


@dataclass(frozen=True)
class FolderListing:
    """What a folder holds.

    Attributes:
        root: The folder.
        layout: Which convention was recognised, and why, in a few words.
        entries: Files with captions, in the order of the metadata file, or by name.
        drops: Rows and files left out, each with its reason.
    """

    root: Path
    layout: str
    entries: tuple[FolderEntry, ...]
    drops: tuple[UnusableClip, ...]


def list_folder(root: Path | str, missing_caption: MissingCaption = "skip") -> FolderListing:
    """Find the clips of a folder: by `metadata.jsonl`, else `metadata.csv`, else a `.txt` beside each file.

    Args:
        root: The folder; paths in a metadata file are relative to it.
        missing_caption: Whether a file without caption is left out or gets the empty caption.

    Raises:
        UserError: if `root` is not a folder, or a metadata table has no column of paths.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected a folder of videos with captions.")
    for name, read_rows in (("metadata.jsonl", _jsonl_rows), ("metadata.csv", _csv_rows)):
        if (root / name).is_file():
            return _from_rows(root, name, read_rows(root / name), missing_caption)
    return _from_text_files(root, missing_caption)


Row = tuple[str, Mapping[str, Any] | UnusableClip]  # where it stands, and what it says


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        where = f"{path.name} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield where, UnusableClip("unreadable metadata row", where, str(error))
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            yield where, UnusableClip("unreadable metadata row", where, "not a JSON object")


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_read_text(path)))
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    if not set(columns) & set(PATH_COLUMNS):
        raise UserError(
            f"{path} has the columns {', '.join(columns) or 'none'}; expected one of {', '.join(PATH_COLUMNS)} "
            f"for the file and one of {', '.join(CAPTION_COLUMNS)} for its caption."
        )
    for row in reader:
        yield f"{path.name} line {reader.line_num}", row


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Save it as UTF-8 text.") from error


def _from_rows(root: Path, name: str, rows: Iterator[Row], missing_caption: MissingCaption) -> FolderListing:
    entries: list[FolderEntry] = []
    drops: list[UnusableClip] = []
    for where, row in rows:
        entry = row if isinstance(row, UnusableClip) else _entry_of_row(root, where, row, missing_caption)
        if isinstance(entry, UnusableClip):
            drops.append(entry)
        else:
            entries.append(entry)
    return FolderListing(root, f"{name} in the folder", tuple(entries), tuple(drops))


def _entry_of_row(
    root: Path, where: str, row: Mapping[str, Any], missing_caption: MissingCaption
) -> FolderEntry | UnusableClip:
    name = next((row[column] for column in PATH_COLUMNS if row.get(column)), None)
    if not isinstance(name, str):
        return UnusableClip("metadata row without a file", where, f"no {', '.join(PATH_COLUMNS)}")
    path = root / name
    if path.suffix.lower() not in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        return UnusableClip("unknown kind of file", name, f"suffix {path.suffix!r}")
    if not path.is_file():
        return UnusableClip("missing file", name, where)
    several = row.get(CAPTION_LIST_COLUMN)
    candidates = several if isinstance(several, list) else [row.get(column) for column in CAPTION_COLUMNS]
    captions = tuple(" ".join(text.split()) for text in candidates if isinstance(text, str) and text.strip())
    if not isinstance(several, list):
        captions = captions[:1]
    return _with_captions(path, name, captions, missing_caption)


def _from_text_files(root: Path, missing_caption: MissingCaption) -> FolderListing:
    entries: list[FolderEntry] = []
    drops: list[UnusableClip] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if is_hidden or path.suffix.lower() not in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
            continue
        text_path = path.with_suffix(".txt")
        text = _read_text(text_path) if text_path.is_file() else ""
        captions = (" ".join(text.split()),) if text.strip() else ()
        entry = _with_captions(path, str(name), captions, missing_caption)
        if isinstance(entry, UnusableClip):
            drops.append(entry)
        else:
            entries.append(entry)
    layout = "a .txt beside each file (no metadata.jsonl or metadata.csv)"
    return FolderListing(root, layout, tuple(entries), tuple(drops))


def _with_captions(
    path: Path, name: str, captions: tuple[str, ...], missing_caption: MissingCaption
) -> FolderEntry | UnusableClip:
    if captions:
        return FolderEntry(path, name, captions)
    if missing_caption == "empty":
        return FolderEntry(path, name, ("",))
    return UnusableClip("no caption", name)
