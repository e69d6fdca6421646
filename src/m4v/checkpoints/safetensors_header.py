"""The header of a safetensors file: what it holds and where, in the very bytes the safetensors library writes."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m4v.core.errors import UserError

_HEADER_LIMIT = 100_000_000
_ALIGNMENT = 8

# From the first to the last in a file: the library sorts by dtype, widest first, then by name.
DTYPES: dict[str, torch.dtype] = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class SafetensorsHeader:
    """What stands before the values of a safetensors file.

    Attributes:
        raw: The whole beginning of the file: length, JSON and padding. The values follow.
        metadata: Words kept beside the tensors.
        specs: The tensors in the order of their values.
        offsets: Where the values of each begin, counted from the start of the file.
    """

    raw: bytes
    metadata: Mapping[str, str]
    specs: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]

    @classmethod
    def build(cls, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> "SafetensorsHeader":
        """Lay out a file as the safetensors library does.

        Raises:
            UserError: if a tensor has a type that safetensors cannot hold.
        """
        for name, spec in specs.items():
            if spec.dtype not in _CODES:
                raise UserError(f"{name} is of type {spec.dtype}, which safetensors cannot hold. Cast it first.")
        ordered = dict(sorted(specs.items(), key=lambda item: (_RANKS[item[1].dtype], item[0])))
        table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, spec in ordered.items():
            begin, end = end, end + spec.nbytes
            table[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
        return cls.parse(_with_length(text + b" " * (-len(text) % _ALIGNMENT)))

    @classmethod
    def parse(cls, raw: bytes) -> "SafetensorsHeader":
        """Read the beginning of a file.

        Raises:
            ValueError, KeyError, TypeError, IndexError, AttributeError: if it is not a header.
        """
        table = json.loads(raw[8:])
        metadata = table.pop("__metadata__", None) or {}
        entries = sorted(table.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        specs = {name: TensorSpec(DTYPES[entry["dtype"]], tuple(entry["shape"])) for name, entry in entries}
        offsets = {name: len(raw) + entry["data_offsets"][0] for name, entry in entries}
        if any(entry["data_offsets"][1] - entry["data_offsets"][0] != specs[name].nbytes for name, entry in entries):
            raise ValueError("sizes and places of the tensors disagree")
        return cls(raw, metadata, specs, offsets)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return len(self.raw) + max(
            (self.offsets[name] - len(self.raw) + spec.nbytes for name, spec in self.specs.items()), default=0
        )


def read_header(path: Path) -> SafetensorsHeader:
    """Read the header of a file, and check that the file holds all the bytes it promises.

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
            text = file.read(length)
        if len(text) < length:
            raise UserError(f"{path} is cut off inside its header ({size} bytes). Restore or download it again.")
        header = SafetensorsHeader.parse(start + text)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} has an unreadable safetensors header. Restore or download it again.") from error
    if size != header.file_size:
        raise UserError(
            f"{path} has {size} bytes but its header promises {header.file_size}: it was cut off or altered. "
            "Restore or download it again."
        )
    return header


def _with_length(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
