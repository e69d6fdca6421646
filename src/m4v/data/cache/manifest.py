"""What a cache holds as a whole, and whether the data set it was made from is still the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError, shorten
from m4v.core.files import atomic_path
from m4v.core.shapes import VideoShape
from m4v.data.cache.sample import (
    FORMAT_VERSION,
    CachedSample,
    caption_hash,
    read_facts,
    read_sample,
    read_tensors,
    sample_path,
)
from m4v.data.folder_entry import FolderEntry, MissingCaption
from m4v.data.folder_listing import list_folder

MANIFEST = "cache.json"
EMPTY_PROMPT = "empty_prompt.safetensors"


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """Everything but the clip itself that a cached sample depends on.

    Attributes:
        vae: Class and place of the autoencoder.
        vae_hash: Of its weights and latent statistics.
        encoder: Class and place of what reads captions.
        encoder_hash: Of its weights (if captions are stored as embeddings) and its tokenizer.
        decoder: What decodes videos.
        fps: Target rate.
        request: Target size, longest and shortest length, and time compression.
        precision: What the encoders computed in.
        format_version: Of the files.
    """

    vae: str
    vae_hash: str
    encoder: str
    encoder_hash: str
    decoder: str
    fps: str
    request: str
    precision: str
    format_version: str = FORMAT_VERSION

    def differences(self, facts: Mapping[str, str]) -> list[str]:
        """Name what a stored sample was made with otherwise; places are not compared, what lies there is."""
        mine = asdict(self)
        return [name for name in mine if name not in ("vae", "encoder") and facts.get(name) != mine[name]]


def describe_request(shape: VideoShape, min_frames: int, time_compression: int) -> str:
    """Write what clips are cut to, as identities hold it."""
    return f"{shape.height}x{shape.width}, {min_frames}-{shape.num_frames} frames of {time_compression}k+1"


@dataclass(frozen=True)
class FileState:
    """A source file as it was when it was encoded."""

    num_bytes: int
    changed_ns: int
    sha256: str

    @classmethod
    def of(cls, entry: FolderEntry, content: bytes | None = None) -> "FileState":
        """Measure a file, or the part of an archive."""
        content = content or entry.content() or entry.path.read_bytes()
        changed = entry.path.stat().st_mtime_ns
        place = f"{entry.cut}{entry.crop}" if entry.cut or entry.crop else ""
        return cls(len(content), changed, hashlib.sha256(content + place.encode()).hexdigest())

    def is_current(self, entry: FolderEntry) -> bool:
        """Tell whether the file is still the same; its content is read only if its time of change is another."""
        if entry.num_bytes() != self.num_bytes:
            return False
        if entry.path.stat().st_mtime_ns == self.changed_ns and not (entry.cut or entry.crop):
            return True
        return FileState.of(entry).sha256 == self.sha256


@dataclass(frozen=True)
class SampleCache:
    """A finished cache.

    Attributes:
        folder: Where it is.
        identity: What all its samples were made with.
        data: The data set's folder or file.
        sources: Names of the clips, in the order of the data set.
        dropped: Names of files that could not be encoded.
        missing_caption: How files without caption were taken.
    """

    folder: Path
    identity: CacheIdentity
    data: Path
    sources: tuple[str, ...]
    dropped: tuple[str, ...]
    missing_caption: MissingCaption = "skip"

    @classmethod
    def open(cls, folder: Path) -> "SampleCache":
        """Read the manifest.

        Raises:
            UserError: if the folder is no finished cache, or of another format.
        """
        path = folder / MANIFEST
        try:
            plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if plain["identity"]["format_version"] != FORMAT_VERSION:
                raise UserError(
                    f"{folder} has cache format {plain['identity']['format_version']}; this version reads "
                    f"{FORMAT_VERSION}. Run m4v data cache again."
                )
            identity = CacheIdentity(**plain["identity"])
            names = tuple(plain["sources"]), tuple(plain["dropped"])
            return cls(folder, identity, Path(plain["data"]), *names, plain["missing_caption"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no finished cache ({error}). Make one, or finish it, with: m4v data cache DATA {folder} "
                "--model DIR"
            ) from error

    def write(self) -> None:
        """Write the manifest; the last file of a cache."""
        plain = {
            "identity": asdict(self.identity),
            "data": str(self.data.resolve()),
            "sources": self.sources,
            "dropped": self.dropped,
            "missing_caption": self.missing_caption,
        }
        with atomic_path(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.sources)

    def sample(self, index: int) -> CachedSample:
        """Read clip `index`.

        Raises:
            UserError: if its file is missing or damaged.
        """
        return read_sample(sample_path(self.folder, self.sources[index]))

    def empty_prompt(self) -> dict[str, Tensor]:
        """Read the encoded empty prompt, one row."""
        return read_tensors(self.folder / EMPTY_PROMPT)

    def latents(self, sources: Sequence[str] | None = None) -> tuple[Float[Tensor, "n c t h w"], list[tuple[str, ...]]]:
        """Stack the latents of equally long clips, with the captions of each.

        Args:
            sources: Names of the clips wanted, in this order; by default all.

        Raises:
            UserError: if a clip is not in the cache, or clips differ in size or length.
        """
        wanted = self.sources if sources is None else tuple(sources)
        if missing := [name for name in wanted if name not in set(self.sources)]:
            raise UserError(
                f"The cache {self.folder} lacks {len(missing)} of {len(wanted)} clips ({shorten(missing)}). "
                "Run m4v data cache again."
            )
        samples = [read_sample(sample_path(self.folder, name)) for name in wanted]
        shapes: dict[tuple[int, ...], int] = {}
        for sample in samples:
            shapes[tuple(sample.latent.shape)] = shapes.get(tuple(sample.latent.shape), 0) + 1
        if len(shapes) > 1:
            counts = ", ".join(f"{count} x {shape}" for shape, count in shapes.items())
            raise UserError(
                f"The clips of {self.folder} differ in their latents' size ({counts}). Cache them at one length with "
                "--min-frames equal to --frames, or train by buckets."
            )
        return torch.stack([sample.latent for sample in samples]), [sample.captions for sample in samples]

    def check_request(self, request: str, fps: float) -> None:
        """Refuse a cache of clips of another size, length or rate.

        Raises:
            UserError: naming both.
        """
        wanted, found = f"{request} at {fps:g} fps", f"{self.identity.request} at {self.identity.fps} fps"
        if wanted != found:
            raise UserError(
                f"The cache {self.folder} holds clips of {found}, but {wanted} are wanted. Change the run's data "
                "settings, or run m4v data cache again."
            )

    def check_encoders(self, vae_hash: str, encoder_hash: str | None = None) -> None:
        """Refuse a cache made by other networks.

        Raises:
            UserError: naming which.
        """
        pairs = [("autoencoder", vae_hash, self.identity.vae_hash, self.identity.vae)]
        if encoder_hash is not None:
            pairs.append(("text encoder", encoder_hash, self.identity.encoder_hash, self.identity.encoder))
        for what, mine, theirs, place in pairs:
            if mine != theirs:
                raise UserError(
                    f"The cache {self.folder} was made with another {what} ({place}, weights {theirs[:12]}) than the "
                    f"model's (weights {mine[:12]}). Run m4v data cache again with this model."
                )

    def check_data(self) -> str | None:
        """Refuse a cache whose data set has changed.

        Returns:
            What could not be checked, in words, or None.

        Raises:
            UserError: naming files that changed, went or came.
        """
        if not self.data.exists():
            return f"{self.data} is not here, so whether it is unchanged since {self.folder} was made is not checked."
        entries = {entry.name: entry for entry in list_folder(self.data, self.missing_caption).entries}
        known = {*self.sources, *self.dropped}
        changes = {"gone": [name for name in self.sources if name not in entries]}
        changes["new"] = [name for name in entries if name not in known]
        changes["changed"] = [name for name in self.sources if name in entries and not self._is_current(entries[name])]
        if any(changes.values()):
            found = "; ".join(f"{len(names)} {kind} ({shorten(names)})" for kind, names in changes.items() if names)
            raise UserError(
                f"{self.data} has changed since {self.folder} was made: {found}. Run m4v data cache again; clips that "
                "are unchanged are kept."
            )
        return None

    def _is_current(self, entry: FolderEntry) -> bool:
        facts = read_facts(sample_path(self.folder, entry.name))
        return source_difference(entry, facts) is None


def source_difference(entry: FolderEntry, facts: Mapping[str, str]) -> str | None:
    """Tell how a file differs from what a sample was made of: its captions, or itself."""
    try:
        state = FileState(int(facts["source_bytes"]), int(facts["source_changed_ns"]), facts["source_sha256"])
        if facts["caption_hash"] != caption_hash(entry.captions):
            return "changed caption"
    except (KeyError, ValueError):
        return "unreadable sample"
    return None if state.is_current(entry) else "changed file"
