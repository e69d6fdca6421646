"""The samples of WebDataset tars as entries, which any clip source reads by byte offset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m4v.data.folder_entry import (
    EntryOrDrop,
    FolderEntry,
    FolderListing,
    MissingCaption,
    clean_captions,
    collect,
    with_caption,
)
from m4v.data.listing.tables import numbers
from m4v.data.shards.index import ShardSample, read_index, scan
from m4v.data.source import UnusableClip


def list_shards(root: Path, tars: Sequence[Path], layout: str, missing_caption: MissingCaption) -> FolderListing:
    """List the samples of tars, in their order.

    Args:
        root: What the user named.
        tars: The tars; one without an index of ours is read once through its headers.
        layout: What to call this in messages.
        missing_caption: Whether a sample without caption is left out or gets the empty caption.

    Raises:
        UserError: if a file is no plain tar.
    """
    found: list[EntryOrDrop] = []
    num_scanned = 0
    for tar in tars:
        index = read_index(tar)
        if index is None:
            index = scan(tar)
            num_scanned += 1
        found += [_entry(tar, sample, missing_caption) for sample in index.samples]
        found += [UnusableClip(*drop) for drop in index.drops]
        found += [UnusableClip("sample without video or image", f"{tar.name}:{key}") for key in index.unpaired]
    note = f", {num_scanned} of them without an index: their headers were read" if num_scanned else ""
    return collect(root, layout + note, found)


def _entry(tar: Path, sample: ShardSample, missing_caption: MissingCaption) -> EntryOrDrop:
    name = f"{tar.name}:{sample.key}{sample.suffix}"
    if sample.media.size == 0:
        return UnusableClip("empty file", name)
    several = sample.facts.get("captions")
    captions = clean_captions(several if isinstance(several, list) else sample.text)
    if not captions:
        captions = clean_captions(sample.text or sample.facts.get("caption") or sample.facts.get("text"))
    cut, crop = _whole(sample.facts, "cut", 2), _whole(sample.facts, "crop", 4)
    entry = FolderEntry(
        tar,
        name,
        captions,
        sample.media,
        None if cut is None else (cut[0], cut[1]),
        None if crop is None else (crop[0], crop[1], crop[2], crop[3]),
        numbers(sample.facts),
    )
    return with_caption(entry, missing_caption)


def _whole(facts: Mapping[str, Any], key: str, count: int) -> list[int] | None:
    value = facts.get(key)
    is_whole = isinstance(value, list) and len(value) == count and all(isinstance(item, int) for item in value)
    return value if is_whole else None
