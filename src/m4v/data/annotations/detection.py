"""Which published data set an annotation file belongs to, by its columns, and its listing."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from m4v.core.errors import UserError
from m4v.data.annotations.filters import ScoreFilter, keep
from m4v.data.annotations.readers import open_sora_plan_entry, openvid_entry, pyramid_flow_entry, webvid_entry
from m4v.data.folder_entry import EntryOrDrop, FolderEntry, FolderListing, MissingCaption, collect, with_caption
from m4v.data.listing.tables import csv_rows
from m4v.data.listing.text import Row, json_list_rows, jsonl_rows, read_text
from m4v.data.source import UnusableClip

AnnotationKind = Literal["webvid", "openvid", "open-sora-plan", "pyramid-flow"]
_READERS: dict[AnnotationKind, Callable[[Path, str, Mapping[str, Any]], EntryOrDrop]] = {
    "webvid": webvid_entry,
    "openvid": openvid_entry,
    "open-sora-plan": open_sora_plan_entry,
    "pyramid-flow": pyramid_flow_entry,
}
_TITLES = {
    "webvid": "WebVid",
    "openvid": "OpenVid",
    "open-sora-plan": "Open-Sora-Plan",
    "pyramid-flow": "Pyramid-Flow",
}


def recognise(path: Path) -> AnnotationKind | None:
    """Tell by the first row which published data set a `.csv`, `.jsonl`, `.json` or `.txt` file belongs to."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return _by_columns(_first_line(path))
        if suffix == ".jsonl":
            row = json.loads(_first_line(path))
            is_theirs = isinstance(row, dict) and "text" in row and bool({"latent", "text_fea"} & set(row))
            return "pyramid-flow" if is_theirs else None
        if suffix == ".json":
            head = _head(path)
            return "open-sora-plan" if '"cap"' in head and '"path"' in head else None
        if suffix == ".txt":
            return "open-sora-plan" if _annotation_list(path) else None
    except (OSError, UnicodeDecodeError, ValueError, UserError):
        return None
    return None


def list_annotations(
    path: Path,
    *,
    kind: AnnotationKind,
    media: Path | None = None,
    filters: Sequence[ScoreFilter] = (),
    missing_caption: MissingCaption = "skip",
) -> FolderListing:
    """List the files of a published annotation file.

    Args:
        path: The file; for Open-Sora-Plan also a text file with `FOLDER,ANNOTATIONS.json` on each line.
        kind: Which data set.
        media: Folder of the videos; by default `videos/` beside the file if there is one, else the file's own folder.
        filters: Bounds of scores; all must hold.
        missing_caption: Whether a file without caption is left out or gets the empty caption.
    """
    found: list[EntryOrDrop] = []
    for folder, where, row in _rows(path, kind, media):
        entry = row if isinstance(row, UnusableClip) else _READERS[kind](folder, where, row)
        entry = with_caption(entry, missing_caption) if isinstance(entry, FolderEntry) else entry
        found.append(keep(entry, filters))
    return collect(path, f"{_TITLES[kind]} annotations in {path.name}, recognised by their columns", found)


def _rows(
    path: Path, kind: AnnotationKind, media: Path | None
) -> Iterator[tuple[Path, str, Mapping[str, Any] | UnusableClip]]:
    parts = [(media or _media_folder(path), path)]
    if path.suffix.lower() == ".txt":
        parts = [(Path(folder) if media is None else media, part) for folder, part in _annotation_list(path)]
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {".jsonl": jsonl_rows, ".json": json_list_rows}
    for folder, part in parts:
        rows = readers[part.suffix.lower()](part) if part.suffix.lower() in readers else csv_rows(part, bool)
        for where, row in rows:
            yield folder, where, row


def _media_folder(path: Path) -> Path:
    return path.parent / "videos" if (path.parent / "videos").is_dir() else path.parent


def _annotation_list(path: Path) -> list[tuple[str, Path]]:
    """Read Open-Sora-Plan's `FOLDER,ANNOTATIONS.json` lines; empty if the file is something else."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    pairs = [line.rsplit(",", 1) for line in lines]
    if not pairs or any(len(pair) < 2 or not pair[1].strip().endswith(".json") for pair in pairs):
        return []
    return [(str(path.parent / pair[0].strip()), path.parent / pair[1].strip()) for pair in pairs]


def _by_columns(header: str) -> AnnotationKind | None:
    columns = {column.strip() for column in next(csv.reader([header]), [])}
    if {"videoid", "name"} <= columns and columns & {"contentUrl", "page_dir"}:
        return "webvid"
    return "openvid" if {"video", "caption", "aesthetic score"} <= columns else None


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        return next((line for line in file if line.strip()), "").strip()


def _head(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        return "".join(itertools.islice(iter(lambda: file.read(4096), ""), 16))
