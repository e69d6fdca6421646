"""Which files of a data set are clips and what their captions are, before any of them is decoded."""

from collections.abc import Sequence
from pathlib import Path

from m4v.core.errors import UserError
from m4v.data.annotations.detection import AnnotationKind, list_annotations, recognise
from m4v.data.annotations.filters import ScoreFilter, keep
from m4v.data.folder_entry import FolderEntry, FolderListing, MissingCaption, collect
from m4v.data.listing.tables import CAPTION_COLUMNS, PATH_COLUMNS, ROW_READERS, list_table
from m4v.data.listing.text_files import CAPTION_LINES, VIDEO_LINES, list_line_pairs, list_side_by_side, media_files
from m4v.data.shards.listing import list_shards

__all__ = [
    "CAPTION_COLUMNS",
    "PATH_COLUMNS",
    "FolderEntry",
    "FolderListing",
    "MissingCaption",
    "list_folder",
]

_TABLES = tuple(f"metadata{suffix}" for suffix in ROW_READERS)
_CAPTION_JSON = "videos2caption.json"
_SHARD_SUFFIX = ".tar"


def list_folder(
    root: Path | str,
    missing_caption: MissingCaption = "skip",
    *,
    media: Path | str | None = None,
    annotations: AnnotationKind | None = None,
    filters: Sequence[ScoreFilter] = (),
) -> FolderListing:
    """Find the clips of a data set.

    A folder is searched for, in this order: `metadata.jsonl`, `.csv`, `.json` or `.parquet`; `videos2caption.json`;
    `videos.txt` with `prompts.txt` or `captions.txt`; the annotation file of a published data set; a `.txt` beside each
    file; WebDataset tars. `layout` of the result says which was taken, and why.

    Args:
        root: A folder, or one annotation file, table or tar.
        missing_caption: Whether a file without caption is left out or gets the empty caption.
        media: Folder that the paths of an annotation file are relative to, where it is another.
        annotations: Which published data set an annotation file belongs to; by default, told by its columns.
        filters: Bounds of scores; entries outside are dropped and counted.

    Raises:
        UserError: if there is nothing at `root`, or what is there cannot be read as what it looks like.
    """
    root = Path(root)
    media = None if media is None else Path(media)
    if root.is_file():
        listing = _list_file(root, missing_caption, media, annotations)
    elif root.is_dir():
        listing = _list_directory(root, missing_caption, media)
    else:
        raise UserError(f"{root} is not a folder; expected a folder of videos with captions, or an annotation file.")
    if not filters:
        return listing
    kept = [keep(entry, filters) for entry in listing.entries]
    return collect(listing.root, listing.layout, [*kept, *listing.drops])


def _list_file(
    path: Path, missing_caption: MissingCaption, media: Path | None, annotations: AnnotationKind | None
) -> FolderListing:
    if path.suffix.lower() == _SHARD_SUFFIX:
        return list_shards(path, [path], f"the WebDataset tar {path.name}", missing_caption)
    kind = annotations or recognise(path)
    if kind is not None:
        return list_annotations(path, kind=kind, media=media, missing_caption=missing_caption)
    if path.suffix.lower() in ROW_READERS:
        return list_table(path, path, media or path.parent, f"the table {path.name}", missing_caption)
    raise UserError(
        f"{path} is a file that no data set layout knows; expected a folder, or a file ending in "
        f"{', '.join([*ROW_READERS, _SHARD_SUFFIX])}."
    )


def _list_directory(root: Path, missing_caption: MissingCaption, media: Path | None) -> FolderListing:
    tables = [name for name in _TABLES if (root / name).is_file()]
    if tables:
        others = f" ({', '.join(tables[1:])} not read, the first of {', '.join(_TABLES)} counts)" if tables[1:] else ""
        return list_table(root, root / tables[0], media or root, f"{tables[0]} in the folder{others}", missing_caption)
    if (root / _CAPTION_JSON).is_file():
        videos = media or (root / "videos" if (root / "videos").is_dir() else root)
        layout = f"{_CAPTION_JSON} in the folder (no metadata table)"
        return list_table(root, root / _CAPTION_JSON, videos, layout, missing_caption)
    captions = next((name for name in CAPTION_LINES if (root / name).is_file()), None)
    if captions and (root / VIDEO_LINES).is_file():
        layout = f"line i of {VIDEO_LINES} with line i of {captions} (no metadata table)"
        return list_line_pairs(root, captions, layout, missing_caption)
    for path in sorted([*root.glob("*.csv"), *root.glob("*.jsonl")]):
        kind = recognise(path)
        if kind is not None:
            return list_annotations(path, kind=kind, media=media, missing_caption=missing_caption)
    files = media_files(root)
    shards = sorted(root.glob(f"*{_SHARD_SUFFIX}"))
    if shards and not files:
        layout = f"{len(shards)} WebDataset tars (no metadata table, no video or image files)"
        return list_shards(root, shards, layout, missing_caption)
    layout = "a .txt beside each file (no metadata table such as metadata.jsonl or metadata.csv)"
    if shards:
        layout += f"; the {len(shards)} tars of the folder are not read"
    return list_side_by_side(root, files, layout, missing_caption)
