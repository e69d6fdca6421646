"""Safetensors files of state dicts: written whole or not at all, read strictly, with readable differences."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.files import atomic_path

_HEADER_LIMIT = 100_000_000
_SHOWN_NAMES = 4


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
            parts.append(f"{len(self.wrong_shape)} of another shape ({_shorten(shown)})")
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_shorten(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unknown ({_shorten(self.unexpected)})")
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
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else _HEADER_LIMIT + 1
            if length > _HEADER_LIMIT:
                raise UserError(f"{path} is not a safetensors file ({size} bytes). Restore or download it again.")
            raw = file.read(length)
        if len(raw) < length:
            raise UserError(f"{path} is cut off inside its header ({size} bytes). Restore or download it again.")
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} has an unreadable safetensors header. Restore or download it again.") from error
    if size != end:
        raise UserError(
            f"{path} has {size} bytes but its header promises {end}: it was cut off or altered. "
            "Restore or download it again."
        )
    return shapes


def file_sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shorten(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown}, and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown
