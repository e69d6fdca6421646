"""One file of a data set before it is decoded, whatever table, text file or archive named it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m4v.data.source import UnusableClip
from m4v.media.images import IMAGE_SUFFIXES
from m4v.media.media_error import MediaError
from m4v.media.video import VIDEO_SUFFIXES

MissingCaption = Literal["skip", "empty"]
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)


@dataclass(frozen=True)
class ByteRange:
    """Where a file lies inside an archive, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class FolderEntry:
    """One video or image with its captions.

    Attributes:
        path: The file, or the archive that holds it.
        name: Its name as the data set gives it, for messages; ends in the file's own suffix.
        captions: Alternative descriptions.
        member: Where it lies in the archive; None: `path` is the file itself.
        cut: First frame and the one after the last, counted as decoded; None: the whole file.
        crop: Left, top, right, bottom in pixels; None: the whole picture.
        facts: What the data set says about it: scores, sizes, durations.
    """

    path: Path
    name: str
    captions: tuple[str, ...]
    member: ByteRange | None = None
    cut: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether the file is a still image, by its suffix."""
        return Path(self.name).suffix.lower() in IMAGE_SUFFIXES

    def content(self) -> bytes | None:
        """Read the file out of its archive; None where it is no archive's.

        Raises:
            MediaError: if the archive ends before the file does, or is gone.
        """
        if self.member is None:
            return None
        try:
            with self.path.open("rb") as file:
                file.seek(self.member.offset)
                content = file.read(self.member.size)
        except OSError as error:
            raise MediaError(self.path, error.strerror or str(error)) from error
        if len(content) < self.member.size:
            missing = self.member.size - len(content)
            raise MediaError(self.path, f"the archive is truncated, {missing} bytes of this file are missing")
        return content

    def num_bytes(self) -> int:
        """Size of the encoded file."""
        return self.path.stat().st_size if self.member is None else self.member.size


@dataclass(frozen=True)
class FolderListing:
    """What a data set holds.

    Attributes:
        root: The folder, or the annotation file.
        layout: Which convention was recognised, and why, in a few words.
        entries: Files with captions, in the order of the table, or by name.
        drops: Rows and files left out, each with its reason.
    """

    root: Path
    layout: str
    entries: tuple[FolderEntry, ...]
    drops: tuple[UnusableClip, ...]


EntryOrDrop = FolderEntry | UnusableClip


def collect(root: Path, layout: str, found: "list[EntryOrDrop]") -> FolderListing:
    """Sort what was found into entries and drops."""
    return FolderListing(
        root,
        layout,
        tuple(entry for entry in found if isinstance(entry, FolderEntry)),
        tuple(drop for drop in found if isinstance(drop, UnusableClip)),
    )


def clean_captions(texts: object) -> tuple[str, ...]:
    """Join the words of each text by single spaces; what is empty or no text is left out."""
    listed = texts if isinstance(texts, list | tuple) else [texts]
    return tuple(" ".join(text.split()) for text in listed if isinstance(text, str) and text.strip())


def check_file(path: Path, name: str, where: str) -> UnusableClip | None:
    """Tell what is wrong with a file as far as its name and size show it."""
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        return UnusableClip("unknown kind of file", name, f"suffix {path.suffix!r}")
    if not path.is_file():
        return UnusableClip("missing file", name, where)
    if path.stat().st_size == 0:
        return UnusableClip("empty file", name, where)
    return None


def with_caption(entry: FolderEntry, missing_caption: MissingCaption) -> EntryOrDrop:
    """Drop an entry without caption, or give it the empty one."""
    if entry.captions:
        return entry
    if missing_caption == "empty":
        return FolderEntry(entry.path, entry.name, ("",), entry.member, entry.cut, entry.crop, entry.facts)
    return UnusableClip("no caption", entry.name)
