"""The index of one tar: where every file of every sample lies, and what its texts say."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.data.folder_entry import MEDIA_SUFFIXES, ByteRange

INDEX_VERSION = 1


@dataclass(frozen=True)
class ShardSample:
    """One sample of a tar.

    Attributes:
        key: Name that its members share.
        suffix: Suffix of the video or image, with its dot.
        media: Where the video or image lies.
        text: Content of `KEY.txt`.
        facts: Content of `KEY.json`.
    """

    key: str
    suffix: str
    media: ByteRange
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardIndex:
    """What a tar holds.

    Attributes:
        num_bytes: Size of the tar that this was made of.
        samples: In the order of the tar.
        fingerprint: Of the files it was written from; empty for a tar of others.
        drops: (reason, source, detail) of files that were to be in it.
        unpaired: Keys without a video or image.
    """

    num_bytes: int
    samples: tuple[ShardSample, ...]
    fingerprint: str = ""
    drops: tuple[tuple[str, str, str], ...] = ()
    unpaired: tuple[str, ...] = ()


def index_path(tar: Path) -> Path:
    """Name the index beside a tar."""
    return tar.with_suffix(".json")


def write_index(tar: Path, index: ShardIndex) -> None:
    """Write the index beside its tar."""
    plain = {
        "version": INDEX_VERSION,
        "tar": tar.name,
        "tar_bytes": index.num_bytes,
        "fingerprint": index.fingerprint,
        "drops": index.drops,
        "samples": [
            {
                "key": sample.key,
                "suffix": sample.suffix,
                "offset": sample.media.offset,
                "bytes": sample.media.size,
                "text": sample.text,
                "facts": dict(sample.facts),
            }
            for sample in index.samples
        ],
    }
    with atomic_path(index_path(tar)) as temporary:
        temporary.write_text(json.dumps(plain, ensure_ascii=False) + "\n", encoding="utf-8")


def read_index(tar: Path) -> ShardIndex | None:
    """Read the index beside a tar; None if there is none of ours, or the tar has changed its size since."""
    try:
        plain = json.loads(index_path(tar).read_text(encoding="utf-8"))
        if plain["version"] != INDEX_VERSION or plain["tar_bytes"] != tar.stat().st_size:
            return None
        return ShardIndex(
            plain["tar_bytes"],
            tuple(
                ShardSample(
                    row["key"], row["suffix"], ByteRange(row["offset"], row["bytes"]), row["text"], row["facts"]
                )
                for row in plain["samples"]
            ),
            plain["fingerprint"],
            tuple((str(reason), str(source), str(detail)) for reason, source, detail in plain["drops"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scan(tar: Path) -> ShardIndex:
    """Make the index of any WebDataset tar by reading its headers and texts.

    Members of a sample share their name up to its first dot, and follow each other.

    Raises:
        UserError: if the file is no plain tar, or ends early.
    """
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                folder, _, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if info.isfile() and stem and not stem.startswith("."):
                    key = f"{folder}/{stem}".lstrip("./")
                    groups.setdefault(key, {})[f".{extension.lower()}"] = info
            samples, unpaired = [], []
            for key, members in groups.items():
                suffix = next((suffix for suffix in MEDIA_SUFFIXES if suffix in members), None)
                if suffix is None:
                    unpaired.append(key)
                    continue
                info = members[suffix]
                text = _content(archive, members.get(".txt")).decode(errors="replace")
                facts = _facts(_content(archive, members.get(".json")))
                samples.append(ShardSample(key, suffix, ByteRange(info.offset_data, info.size), text, facts))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{tar} cannot be read as an uncompressed tar ({error}). "
            "If it is compressed, unpack it; else download it again."
        ) from error
    return ShardIndex(tar.stat().st_size, tuple(samples), unpaired=tuple(unpaired))


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo | None) -> bytes:
    file = None if info is None else archive.extractfile(info)
    return b"" if file is None else file.read()


def _facts(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content) if content else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
