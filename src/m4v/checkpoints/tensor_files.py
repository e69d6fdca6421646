"""Weights on disk as named tensors, read and written one at a time: memory stays far below the size of a model."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.safetensors_header import SafetensorsHeader, TensorSpec, read_header
from m4v.checkpoints.torch_file import TorchFile
from m4v.core.errors import UserError, shorten

__all__ = ["SafetensorsFile", "TensorSource", "TensorSpec", "TorchFile", "open_tensors", "write_safetensors",
           "write_shards"]  # fmt: skip

_TORCH_SUFFIXES = (".bin", ".pt", ".pth")
_USUAL_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_COPY_BYTES = 2**26


class SafetensorsFile:
    """One safetensors file.

    Raises:
        UserError: if the file is missing, truncated or not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        self.specs = self.header.specs
        self.metadata = self.header.metadata

    def read(self, name: str) -> Tensor:
        """Read one tensor with plain file reads, since mapped pages would count as our memory."""
        spec = self.specs[name]
        values = torch.empty(spec.nbytes, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.header.offsets[name])
            view = values.numpy().data
            while view:
                count = file.readinto(view[:_COPY_BYTES])
                if not count:
                    raise UserError(f"{self.path} ended while it was read. Restore or download it again.")
                view = view[count:]
        return values.view(spec.dtype).reshape(spec.shape)


@dataclass(frozen=True)
class TensorSource:
    """The tensors of one network, in one file or in several.

    Attributes:
        parts: The opened files.
        index: Text of the shard index, if there is one.
        index_path: Where it stands.
    """

    parts: tuple[SafetensorsFile | TorchFile, ...]
    index_path: Path | None = None

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Types and shapes by name, in file order; nothing but headers is read."""
        return {name: spec for part in self.parts for name, spec in part.specs.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of their names."""
        return tuple(part.path for part in self.parts)

    @property
    def metadata(self) -> Mapping[Path, Mapping[str, str]]:
        """Words kept in the headers, by file."""
        return {part.path: part.metadata for part in self.parts}

    @cached_property
    def layout(self) -> dict[str, str]:
        """File name of every tensor."""
        return {name: part.path.name for part in self.parts for name in part.specs}

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(spec.nbytes for spec in self.specs.values())

    @property
    def is_safetensors(self) -> bool:
        """Whether all files are safetensors files."""
        return all(isinstance(part, SafetensorsFile) for part in self.parts)

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory.

        Raises:
            KeyError: if there is no such tensor.
            UserError: if its file cannot be read any more.
        """
        return self._part_of[name].read(name)

    @cached_property
    def _part_of(self) -> dict[str, SafetensorsFile | TorchFile]:
        return {name: part for part in self.parts for name in part.specs}


def open_tensors(path: Path) -> TensorSource:
    """Open weights without reading their values.

    Args:
        path: A safetensors or torch file, a shard index (`*.index.json`), or a folder with one of these; safetensors
            win over torch files, and a file without a variant word over one with it.

    Raises:
        UserError: if there are no weights or several kinds of them, a shard or a tensor is missing, a file is cut off,
            or one could only be opened by running code.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no {path}. Check the path.")
    if path.is_dir():
        path = _weights_of(path)
    if path.suffix == ".json":
        return _open_shards(path)
    return TensorSource((_open_file(path),))


def _weights_of(folder: Path) -> Path:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for suffixes in ((".safetensors",), _TORCH_SUFFIXES):
        indices = [name for name in names if re.search(rf"({'|'.join(suffixes)})\.index(\..+)?\.json$", name)]
        weights = [name for name in names if name.endswith(suffixes)]
        for candidates in (indices, weights):
            if len(candidates) > 1:
                candidates = _usual(candidates) or candidates
            if len(candidates) > 1:
                raise UserError(
                    f"{folder} holds several weights files ({shorten(candidates)}). Name one of them, "
                    "or add the index that says how they belong together."
                )
            if candidates:
                return folder / candidates[0]
    if (folder / "snapshots").is_dir():
        revisions = sorted(entry.name for entry in (folder / "snapshots").iterdir())
        raise UserError(f"{folder} is the cache of a download. Give a folder in its snapshots/: {shorten(revisions)}.")
    raise UserError(
        f"{folder} holds no weights (*.safetensors, or *{', *'.join(_TORCH_SUFFIXES)}). Check the path, or download "
        "the files again."
    )


def _usual(names: Iterable[str]) -> list[str]:
    """Keep names such as `model.safetensors`, without a variant word."""
    for stem in _USUAL_STEMS:
        usual = [name for name in names if re.fullmatch(rf"{stem}\.[a-z]+(\.index\.json)?", name)]
        if usual:
            return usual
    return []


def _open_file(path: Path) -> SafetensorsFile | TorchFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in _TORCH_SUFFIXES:
        return TorchFile(path)
    raise UserError(
        f"{path.name} is not a weights file; expected .safetensors, {', '.join(_TORCH_SUFFIXES)} or a folder."
    )


def _open_shards(index_path: Path) -> TensorSource:
    stored = read_json(index_path).get("weight_map")
    weight_map: dict[str, Any] = stored if isinstance(stored, dict) else {}
    files = weight_map.values()
    # Shards lie beside their index: another path would be read from, and later written to, who knows where.
    if not files or any(not isinstance(name, str) or Path(name).name != name for name in files):
        raise UserError(
            f"{index_path} is not an index of shards: it has no table weight_map from tensors to the names of files "
            "beside it. Download it again."
        )
    names = sorted(set(files))
    absent = [name for name in names if not (index_path.parent / name).is_file()]
    if absent:
        raise UserError(
            f"{index_path.parent} lacks {len(absent)} of {len(names)} shards: {shorten(absent)}. Download them again."
        )
    source = TensorSource(tuple(_open_file(index_path.parent / name) for name in names), index_path)
    found = source.layout
    missing = [name for name, file in weight_map.items() if found.get(name) != file]
    extra = [name for name in found if name not in weight_map]
    if missing or extra or sum(len(part.specs) for part in source.parts) != len(found):
        raise UserError(
            f"{index_path} and its shards disagree: {len(missing)} tensors are not where the index says "
            f"({shorten(missing)}), {len(extra)} are not listed ({shorten(extra)}), or some stand in two shards. "
            "Download the files again."
        )
    return source


def write_safetensors(path: Path, header: SafetensorsHeader, read: Callable[[str], Tensor]) -> None:
    """Write one file, tensor after tensor.

    Args:
        path: Where to; the caller makes the folder and sees to it that no half file stays.
        header: `SafetensorsHeader.build(...)`, or that of a file to be made again.
        read: Gives a tensor by name, of the type and shape in the header.

    Raises:
        ValueError: if a tensor is not what the header says.
    """
    with path.open("wb") as file:
        file.write(header.raw)
        for name, spec in header.specs.items():
            tensor = read(name).detach().to("cpu").contiguous()
            if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; the header says {spec}")
            file.seek(header.offsets[name])
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def write_shards(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    *,
    stem: str = "diffusion_pytorch_model",
    max_shard_bytes: int = 5 * 2**30,
    metadata: Mapping[str, str] | None = None,
    layout: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write a network's tensors as safetensors, in one file or in shards with an index, one tensor in memory at a time.

    The bytes are those the safetensors library writes for the same tensors.

    Args:
        folder: Existing folder.
        specs: What to write, in the order in which shards are filled.
        read: Gives a tensor by name, of the type and shape in `specs`.
        stem: Beginning of the file names.
        max_shard_bytes: Most bytes of values per file; a larger tensor gets a file of its own.
        metadata: Words for every header; default: `{"format": "pt"}`, which transformers and diffusers want.
        layout: File name of every tensor, where they shall be shared out in a certain way.

    Returns:
        The weight files, without the index.

    Raises:
        UserError: if a tensor has a type that safetensors cannot hold.
        ValueError: if a tensor is not what `specs` says.
    """
    layout = layout or _shared_out(specs, stem, max_shard_bytes)
    files = sorted(set(layout.values()))
    for file in files:
        part = {name: spec for name, spec in specs.items() if layout[name] == file}
        header = SafetensorsHeader.build(part, {"format": "pt"} if metadata is None else metadata)
        write_safetensors(folder / file, header, read)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs.values())},
            "weight_map": {name: layout[name] for name in specs},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")
    return tuple(folder / file for file in files)


def _shared_out(specs: Mapping[str, TensorSpec], stem: str, max_shard_bytes: int) -> dict[str, str]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.nbytes
    if len(shards) == 1:
        return dict.fromkeys(specs, f"{stem}.safetensors")
    return {
        name: f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, names in enumerate(shards, 1)
        for name in names
    }
