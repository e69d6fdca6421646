"""Writes a data set folder that every reader of `metadata.jsonl` understands, and picks up where it was interrupted."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.data.clip import LabelledClip
from m4v.data.loader import Prefetcher
from m4v.media.images import write_png
from m4v.media.video import write_video

METADATA = "metadata.jsonl"
LABELS = "labels.jsonl"
RECIPE = "dataset.json"


@dataclass(frozen=True)
class WrittenDataset:
    """Where a data set is, how many clips were made now and how many were there already."""

    root: Path
    num_written: int
    num_reused: int


def write_dataset(
    root: Path | str,
    num_clips: int,
    make: Callable[[int], LabelledClip],
    *,
    recipe: Mapping[str, Any],
    num_threads: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> WrittenDataset:
    """Write clips 0 to `num_clips` - 1 as mp4 (images as PNG) with `metadata.jsonl` and `labels.jsonl`.

    A few clips at a time are held in memory. A clip counts once its row stands in `metadata.jsonl`, which is written
    last; after an interruption the same call makes only the missing ones, and a larger `num_clips` extends the folder.

    Args:
        root: The folder, created if need be.
        num_clips: How many clips the folder shall hold.
        make: Clip by number; a pure function.
        recipe: What the clips are made from, as JSON types; kept in `dataset.json`, so that two recipes never mix.
        num_threads: Threads that make clips ahead of writing.
        on_progress: Called after each clip with (clips there, clips in all).

    Raises:
        UserError: if the folder holds another data set, or cannot be written.
    """
    root = Path(root)
    _claim_folder(root, recipe)
    done = _committed_rows(root)
    missing = [index for index in range(num_clips) if index not in done]
    num_reused = num_clips - len(missing)
    try:
        with ExitStack() as stack:
            labels = stack.enter_context((root / LABELS).open("a", encoding="utf-8"))
            metadata = stack.enter_context((root / METADATA).open("a", encoding="utf-8"))
            clips = stack.enter_context(Prefetcher(make, missing, num_threads=num_threads))
            for count, (index, labelled) in enumerate(zip(missing, clips, strict=True), start=num_reused + 1):
                name = _write_media(root, index, labelled)
                _append(labels, {"file_name": name, **labelled.labels})
                _append(metadata, {"index": index, **_metadata_row(name, labelled)})
                if on_progress:
                    on_progress(count, num_clips)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot write to {root}: {reason}. Free some space, then repeat the same command.") from error
    return WrittenDataset(root, len(missing), num_reused)


def _claim_folder(root: Path, recipe: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(recipe, default=_plain))
    path = root / RECIPE
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            raise UserError(f"{root} holds a data set made from {found}, not {wanted}; choose another folder.")
        return
    if root.is_dir() and any(root.iterdir()):
        raise UserError(f"{root} is not empty and was not written by this command; choose another folder.")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _committed_rows(root: Path) -> set[int]:
    """Cut both row files back to the clips that are wholly there; return their numbers."""
    labels = {row.get("file_name"): row for row in _whole_rows(root / LABELS)}
    rows = [
        row
        for row in _whole_rows(root / METADATA)
        if row.get("file_name") in labels and (root / row["file_name"]).is_file()
    ]
    for name, kept in ((METADATA, rows), (LABELS, [labels[row["file_name"]] for row in rows])):
        if (root / name).exists():
            with atomic_path(root / name) as temporary, temporary.open("w", encoding="utf-8") as file:
                for row in kept:
                    _append(file, row)
    return {row["index"] for row in rows}


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the row that an interruption cut
            continue
    return [row for row in rows if isinstance(row, dict)]


def _write_media(root: Path, index: int, labelled: LabelledClip) -> str:
    clip = labelled.clip
    if len(clip.frames) == 1:
        name = f"images/{index:06d}.png"
        write_png(root / name, clip.frames[0])
    else:
        name = f"videos/{index:06d}.mp4"
        write_video(root / name, clip.frames, clip.fps)
    return name


def _metadata_row(name: str, labelled: LabelledClip) -> dict[str, Any]:
    num_frames, height, width = labelled.clip.frames.shape[:3]
    return {
        "file_name": name,
        "caption": labelled.clip.captions[0],
        "captions": list(labelled.clip.captions),
        "fps": labelled.clip.fps,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "source": labelled.clip.source,
    }


def _append(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, default=_plain) + "\n")
    file.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
