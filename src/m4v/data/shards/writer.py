"""Writes a data set as WebDataset tars with byte-offset indices, and goes on where it was interrupted."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.core.files import atomic_path, require_free_space
from m4v.data.folder_entry import ByteRange, FolderEntry
from m4v.data.shards.index import ShardIndex, ShardSample, index_path, read_index, write_index
from m4v.data.source import UnusableClip
from m4v.media.images import read_image
from m4v.media.media_error import MediaError
from m4v.media.video import probe

_BLOCK = 512  # a tar is made of blocks of this many bytes


@dataclass(frozen=True)
class WrittenShards:
    """What was done.

    Attributes:
        paths: All tars of the data set.
        num_written: Tars written now.
        num_reused: Tars that were there already, of the same files.
        num_replaced: Of those written, how many took the place of one of changed files.
        num_samples: Samples in all tars.
        drops: Files that are in no tar, each with its reason.
    """

    paths: tuple[Path, ...]
    num_written: int
    num_reused: int
    num_replaced: int
    num_samples: int
    drops: tuple[UnusableClip, ...]


def plan_shards(
    entries: Sequence[FolderEntry], *, per_shard: int | None = None, shard_bytes: int | None = None
) -> list[list[FolderEntry]]:
    """Split entries, in their order, into tars of a number of samples or of about a size.

    Raises:
        UserError: unless exactly one of the two is given, above 0.
    """
    if (per_shard is None) == (shard_bytes is None):
        raise UserError("Give either the samples per shard or the size of a shard.")
    if min(value for value in (per_shard, shard_bytes) if value is not None) < 1:
        raise UserError(f"A shard of {per_shard or shard_bytes or 0} is too small; expected at least 1.")
    shards: list[list[FolderEntry]] = []
    size = 0
    for entry in entries:
        num_bytes = entry.num_bytes()
        is_full = not shards or (
            len(shards[-1]) == per_shard if shard_bytes is None else size + num_bytes > shard_bytes
        )
        if is_full:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += num_bytes
    return shards


def write_shards(
    folder: Path, shards: Sequence[Sequence[FolderEntry]], on_progress: Callable[[int, int], None] | None = None
) -> WrittenShards:
    """Write the tars of a plan, each complete or not at all; tars of the same files are kept.

    Members are `KEY.<suffix>` with the file's bytes as they are, `KEY.txt` with the first caption and `KEY.json` with
    `fps`, `num_frames` (as the header says), `height`, `width`, `source`, `captions`, and the annotations'
    numbers. Files that cannot be opened are left out and listed.

    Args:
        folder: Where to; it is created.
        shards: Entries of each tar, as `plan_shards` gives them.
        on_progress: Called after each tar with (tars done, tars in all).

    Raises:
        UserError: if the place cannot be written, or holds tars that are not of this plan.
    """
    paths = [folder / f"shard-{number:06d}.tar" for number in range(len(shards))]
    foreign = sorted({path.name for path in folder.glob("*.tar")} - {path.name for path in paths})
    if foreign:
        raise UserError(
            f"{folder} holds {len(foreign)} tars that are not part of this data set ({', '.join(foreign[:3])}). Delete "
            "them, or choose another folder."
        )
    first_key = num_written = num_reused = num_replaced = num_samples = 0
    drops: list[UnusableClip] = []
    for done, (path, entries) in enumerate(zip(paths, shards, strict=True), start=1):
        fingerprint = _fingerprint(entries, first_key)
        index = read_index(path)
        if index is not None and index.fingerprint == fingerprint:
            num_reused += 1
        else:
            num_replaced += path.exists()
            num_written += 1
            index = _write_shard(path, entries, first_key, fingerprint)
        num_samples += len(index.samples)
        drops += [UnusableClip(*drop) for drop in index.drops]
        first_key += len(entries)
        if on_progress:
            on_progress(done, len(shards))
    return WrittenShards(tuple(paths), num_written, num_reused, num_replaced, num_samples, tuple(drops))


def _fingerprint(entries: Sequence[FolderEntry], first_key: int) -> str:
    """Hash what the tar depends on; a file counts as unchanged while its size and time of change are the same."""
    digest = hashlib.sha256(str(first_key).encode())
    for entry in entries:
        status = entry.path.stat()
        facts = [str(entry.path.resolve()), status.st_size, status.st_mtime_ns, _sidecar(entry), entry.name]
        place = None if entry.member is None else [entry.member.offset, entry.member.size]
        digest.update(json.dumps([*facts, place]).encode())
    return digest.hexdigest()


def _sidecar(entry: FolderEntry) -> dict[str, Any]:
    facts: dict[str, Any] = {**entry.facts, "source": entry.name, "captions": list(entry.captions)}
    if entry.cut is not None:
        facts["cut"] = list(entry.cut)
    if entry.crop is not None:
        facts["crop"] = list(entry.crop)
    return facts


def _write_shard(path: Path, entries: Sequence[FolderEntry], first_key: int, fingerprint: str) -> ShardIndex:
    require_free_space(path, sum(entry.num_bytes() for entry in entries))
    index_path(path).unlink(missing_ok=True)  # never an index beside a tar that it was not made of
    samples: list[ShardSample] = []
    drops: list[tuple[str, str, str]] = []
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for key, entry in enumerate(entries, start=first_key):
                try:
                    content = entry.content() or entry.path.read_bytes()
                    facts = {**_sidecar(entry), **_measure(entry, content)}
                except MediaError as error:
                    drops.append(("unreadable file", entry.name, error.reason))
                else:
                    samples.append(_add_sample(archive, f"{key:09d}", entry, content, facts))
        num_bytes = temporary.stat().st_size
    index = ShardIndex(num_bytes, tuple(samples), fingerprint, tuple(drops))
    write_index(path, index)
    return index


def _measure(entry: FolderEntry, content: bytes) -> dict[str, Any]:
    if entry.is_image:
        height, width = read_image(entry.path, content).shape[:2]
        return {"num_frames": 1, "height": height, "width": width}
    info = probe(entry.path, content)
    known = {} if info.reported_frames is None else {"num_frames": info.reported_frames}
    return {"fps": info.fps, "height": info.height, "width": info.width, **known}


def _add_sample(
    archive: tarfile.TarFile, key: str, entry: FolderEntry, content: bytes, facts: dict[str, Any]
) -> ShardSample:
    suffix = Path(entry.name).suffix.lower()
    media = _add(archive, key + suffix, content)
    text = entry.captions[0]
    _add(archive, f"{key}.txt", text.encode())
    _add(archive, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
    return ShardSample(key, suffix, media, text, facts)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> ByteRange:
    info = tarfile.TarInfo(name)  # no owner and no time: equal data sets give equal tars
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
    padded = -(-len(content) // _BLOCK) * _BLOCK
    return ByteRange(archive.offset - padded, len(content))
