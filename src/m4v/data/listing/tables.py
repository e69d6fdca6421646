"""Data sets listed in a table: `metadata.jsonl`, `.csv`, `.json`, `.parquet`, or FastVideo's `videos2caption.json`."""

import csv
import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.data.folder_entry import (
    EntryOrDrop,
    FolderEntry,
    FolderListing,
    MissingCaption,
    check_file,
    clean_captions,
    collect,
    with_caption,
)
from m4v.data.listing.text import Row, json_list_rows, jsonl_rows, read_text
from m4v.data.source import UnusableClip

# The first name present wins. They are the ones that the public trainers of this field use.
PATH_COLUMNS = ("media_path", "video", "video_path", "path", "file_name", "image", "image_path")
CAPTION_COLUMNS = ("caption", "text", "cap", "prompt")
CAPTION_LIST_COLUMN = "captions"


def csv_rows(path: Path, is_table: Callable[[set[str]], bool] | None = None) -> Iterator[Row]:
    """Give the rows of a CSV file by column name.

    Args:
        path: The file.
        is_table: Tells by the columns whether this is the table that was expected; by default, whether it has a column
            of paths.

    Raises:
        UserError: if the columns are others, naming them.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    if not (is_table or _has_paths)(set(columns)):
        raise _wrong_columns(path, columns)
    for row in reader:
        yield f"{path.name} line {reader.line_num}", row


def parquet_rows(path: Path) -> Iterator[Row]:
    """Give the rows of a Parquet file, if pyarrow is installed.

    Raises:
        UserError: if pyarrow is not there, the file cannot be read, or has no column of paths.
    """
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"{path} is a Parquet table, which needs pyarrow. Install it (pip install pyarrow), or save the table as "
            "metadata.csv or metadata.jsonl."
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f"Cannot read {path}: {error}. Save it again as Parquet, CSV or JSON lines.") from error
    if not _has_paths(set(table.column_names)):
        raise _wrong_columns(path, table.column_names)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path.name} row {number}", row


ROW_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".json": json_list_rows,
    ".parquet": parquet_rows,
}


def list_table(
    root: Path,
    table: Path,
    folder: Path,
    layout: str,
    missing_caption: MissingCaption,
    rows: Iterable[Row] | None = None,
) -> FolderListing:
    """List the files of a table.

    Args:
        root: What the user named.
        table: The file.
        folder: What the table's paths are relative to.
        layout: What to call this in messages.
        missing_caption: Whether a file without caption is left out or gets the empty caption.
        rows: The table's rows, if they have been read already.
    """
    found: list[EntryOrDrop] = []
    for where, row in ROW_READERS[table.suffix.lower()](table) if rows is None else rows:
        found.append(row if isinstance(row, UnusableClip) else _entry(folder, where, row, missing_caption))
    return collect(root, layout, found)


def _entry(folder: Path, where: str, row: Mapping[str, Any], missing_caption: MissingCaption) -> EntryOrDrop:
    name = next((row[column] for column in PATH_COLUMNS if row.get(column)), None)
    if not isinstance(name, str):
        return UnusableClip("metadata row without a file", where, f"no {', '.join(PATH_COLUMNS)}")
    path = folder / name
    if problem := check_file(path, name, where):
        return problem
    several = row.get(CAPTION_LIST_COLUMN)
    captions = clean_captions(several) if isinstance(several, list) else _first_captions(row)
    return with_caption(FolderEntry(path, name, captions, facts=numbers(row)), missing_caption)


def _first_captions(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Captions of the first column that has any; a list in it (FastVideo, Open-Sora-Plan) is one of alternatives."""
    for column in CAPTION_COLUMNS:
        if captions := clean_captions(row.get(column)):
            return captions
    return ()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Give the columns of a row that hold finite numbers, as text or as numbers."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(key, str) and isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = float(value)
            except ValueError:
                continue
            if number - number == 0:  # neither infinite nor NaN
                found[key.strip()] = number
    return found


def _has_paths(columns: set[str]) -> bool:
    return bool(columns & set(PATH_COLUMNS))


def _wrong_columns(path: Path, columns: list[str]) -> UserError:
    return UserError(
        f"{path} has the columns {', '.join(columns) or 'none'}; expected one of {', '.join(PATH_COLUMNS)} "
        f"for the file and one of {', '.join(CAPTION_COLUMNS)} for its caption."
    )
