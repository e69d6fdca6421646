"""Data sets whose captions are plain text: a `.txt` beside each file, or line i of one file for line i of another."""

from pathlib import Path

from m4v.core.errors import UserError
from m4v.data.folder_entry import (
    MEDIA_SUFFIXES,
    EntryOrDrop,
    FolderEntry,
    FolderListing,
    MissingCaption,
    check_file,
    clean_captions,
    collect,
    with_caption,
)
from m4v.data.listing.text import read_text

VIDEO_LINES = "videos.txt"
CAPTION_LINES = ("prompts.txt", "prompt.txt", "captions.txt")


def list_line_pairs(root: Path, captions_name: str, layout: str, missing_caption: MissingCaption) -> FolderListing:
    """List the files of `videos.txt`, line i with line i of the captions.

    Raises:
        UserError: if the two files differ in their number of lines.
    """
    names, captions = _lines(root / VIDEO_LINES), _lines(root / captions_name)
    if len(names) != len(captions):
        raise UserError(
            f"{root / VIDEO_LINES} has {len(names)} lines, but {root / captions_name} has {len(captions)}; line i of "
            "one belongs to line i of the other. Add or remove lines until they agree."
        )
    found: list[EntryOrDrop] = []
    for number, (name, caption) in enumerate(zip(names, captions, strict=True), start=1):
        entry = FolderEntry(root / name.strip(), name.strip(), clean_captions(caption))
        problem = check_file(entry.path, entry.name, f"{VIDEO_LINES} line {number}")
        found.append(problem or with_caption(entry, missing_caption))
    return collect(root, layout, found)


def _lines(path: Path) -> list[str]:
    return read_text(path).rstrip().splitlines()


def media_files(root: Path) -> list[Path]:
    """Find videos and images at any depth, hidden ones left out, by name."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in MEDIA_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def list_side_by_side(root: Path, files: list[Path], layout: str, missing_caption: MissingCaption) -> FolderListing:
    """List files with the text in a file of the same name and the suffix `.txt`."""
    found: list[EntryOrDrop] = []
    for path in files:
        name = str(path.relative_to(root))
        text_path = path.with_suffix(".txt")
        captions = clean_captions(read_text(text_path)) if text_path.is_file() else ()
        found.append(check_file(path, name, "") or with_caption(FolderEntry(path, name, captions), missing_caption))
    return collect(root, layout, found)
