"""One clip of a cache: a safetensors file with its latent, its encoded captions, and what they were made from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.files import atomic_path

FORMAT_VERSION = "1"
LATENT = "latent"


@dataclass(frozen=True)
class CachedSample:
    """A clip as a denoiser takes it.

    Attributes:
        latent: Normalised, as stored (bf16).
        text: `token_ids` and `token_mask` (k l), or `text` (k l d), `text_mask` (k l) and `pooled` (k p): one row per
            caption.
        captions: Alternative descriptions, in the order of those rows.
        source: Where the clip comes from.
    """

    latent: Float[Tensor, "c t h w"]
    text: Mapping[str, Tensor]
    captions: tuple[str, ...]
    source: str


def caption_hash(captions: tuple[str, ...]) -> str:
    """Hash of captions in their order."""
    return hashlib.sha256(json.dumps(captions, ensure_ascii=False).encode()).hexdigest()


def sample_path(folder: Path, source: str) -> Path:
    """Name a sample's file: a hash of the clip's name, so that other clips coming and going leave it in its place."""
    return folder / "samples" / f"{hashlib.sha256(source.encode()).hexdigest()[:20]}.safetensors"


def write_sample(path: Path, sample: CachedSample, facts: Mapping[str, str]) -> None:
    """Write a sample, complete or not at all.

    Args:
        path: The file.
        sample: The clip.
        facts: What it was made from, by name.

    Raises:
        UserError: if the place cannot be written.
    """
    metadata = {**facts, "captions": json.dumps(sample.captions, ensure_ascii=False), "source": sample.source}
    tensors = {LATENT: sample.latent, **sample.text}
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and strings as one safetensors file, complete or not at all.

    Raises:
        UserError: if the place cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(plain, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise UserError(f"Cannot write {path}: {error}. Choose another place or free some space.") from error
        temporary.chmod(mode)  # safetensors makes files that only their owner can read


def read_facts(path: Path) -> dict[str, str]:
    """Read what a sample was made from, without its tensors; empty if there is no such file or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def read_sample(path: Path) -> CachedSample:
    """Read a sample.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        captions = tuple(json.loads(metadata["captions"]))
        return CachedSample(tensors.pop(LATENT), tensors, captions, metadata["source"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"The cached clip {path} cannot be read ({error}). Run m4v data cache again.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file of the cache.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). Run m4v data cache again.") from error


def stack_text(rows: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join encoded captions, padding token axes with zeros to the longest."""
    joined: dict[str, Tensor] = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name != "pooled":
            longest = max(part.shape[1] for part in parts)
            parts = [_padded(part, longest) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def _padded(part: Tensor, length: int) -> Tensor:
    shape = (part.shape[0], length - part.shape[1], *part.shape[2:])
    return torch.cat([part, part.new_zeros(shape)], dim=1)
