"""Safetensors files of state dicts: written whole or not at all, read strictly, with readable differences."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from m4v.checkpoints.safetensors_header import read_header
from m4v.core.errors import UserError, shorten
from m4v.core.files import atomic_path


@dataclass(frozen=True)
class StateDifference:
    """How the tensors found in a file differ from those a module needs.

    Attributes:
        missing: Names the module needs and the file lacks.
        unexpected: Names only the file has.
        wrong_shape: Name, shape needed, shape found.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        parts = []
        if self.wrong_shape:
            shown = [f"{name} is {found}, needed {needed}" for name, needed, found in self.wrong_shape]
            parts.append(f"{len(self.wrong_shape)} of another shape ({shorten(shown)})")
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({shorten(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unknown ({shorten(self.unexpected)})")
        return "; ".join(parts) or "no difference"


def compare_shapes(
    needed: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], optional: frozenset[str] = frozenset()
) -> StateDifference:
    """List the differences between needed and found tensor shapes; `optional` names may be absent."""
    return StateDifference(
        missing=tuple(name for name in needed if name not in found and name not in optional),
        unexpected=tuple(name for name in found if name not in needed),
        wrong_shape=tuple(
            (name, shape, found[name]) for name, shape in needed.items() if name in found and found[name] != shape
        ),
    )


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as one safetensors file, atomically; tensors that share memory are written separately.

    Raises:
        UserError: if the place cannot be written.
    """
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous().to("cpu")
        storage = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(separate, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise UserError(f"Cannot write {path}: {error}. Choose another place or free some space.") from error
        temporary.chmod(mode)  # safetensors makes files that only their owner can read


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: if the file is missing, truncated or not a safetensors file.
    """
    read_shapes(path)
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}). Restore or download it again.") from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the tensor names and shapes from a file's header, and check that the file holds all the bytes it promises.

    Raises:
        UserError: if the file is missing, truncated or not a safetensors file.
    """
    return {name: spec.shape for name, spec in read_header(path).specs.items()}


def file_sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
