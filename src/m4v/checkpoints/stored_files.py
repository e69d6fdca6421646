"""How a checkpoint was stored, kept so that it can be stored the same way again, byte for byte."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from m4v.checkpoints.safetensors_header import SafetensorsHeader
from m4v.checkpoints.tensor_files import SafetensorsFile, TensorSource, TensorSpec, write_safetensors
from m4v.core.errors import UserError

_TEXTS = ("config.json", "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json")
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredFiles:
    """Beginnings of weights files, and the small texts beside them, by path below the checkpoint's folder.

    Attributes:
        headers: Of safetensors files.
        texts: Contents of JSON files.
    """

    headers: Mapping[str, SafetensorsHeader]
    texts: Mapping[str, str]

    @classmethod
    def of(cls, root: Path, source: TensorSource) -> "StoredFiles":
        """Describe opened weights; files of formats other than safetensors are left out.

        Args:
            root: Folder that paths are relative to.
            source: Weights below it.
        """
        parts = [part for part in source.parts if isinstance(part, SafetensorsFile)]
        texts = [root / name for name in _TEXTS] + ([] if source.index_path is None else [source.index_path])
        return cls(
            {part.path.relative_to(root).as_posix(): part.header for part in parts},
            {path.relative_to(root).as_posix(): _text_of(path) for path in texts if path.is_file()},
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: Path) -> "StoredFiles":
        """Read what `to_plain` gave.

        Raises:
            UserError: if it is damaged.
        """
        try:
            texts = {path: text.encode() for path, text in plain.get("headers", {}).items()}
            headers = {
                path: SafetensorsHeader.parse(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
                for path, text in texts.items()
            }
            return cls(headers, {str(path): str(text) for path, text in plain.get("texts", {}).items()})
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{where} is damaged ({error}). Restore it, or delete it to use new files.") from error

    def to_plain(self) -> dict[str, dict[str, str]]:
        """JSON types."""
        headers = {path: header.raw[_LENGTH_BYTES:].decode() for path, header in self.headers.items()}
        return {"headers": headers, "texts": dict(self.texts)}

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The tensors of all files."""
        return {name: spec for header in self.headers.values() for name, spec in header.specs.items()}

    def common_prefix(self, prefix: str) -> str:
        """The prefix if all tensor names begin with it, else nothing."""
        return prefix if all(name.startswith(prefix) for name in self.specs) else ""

    def has_folder(self, name: str) -> bool:
        """Whether weights lie in a folder of this name."""
        return any(path.startswith(f"{name}/") for path in self.headers)

    def writer(self, root: Path) -> Callable[[Mapping[str, TensorSpec], Callable[[str], Tensor]], None]:
        """Give what writes the files again below a folder, reading tensors by their names in the files."""

        def write(specs: Mapping[str, TensorSpec], read: Callable[[str], Tensor]) -> None:
            for path, header in self.headers.items():
                write_safetensors(_place(root, path), header, read)
            for path, text in self.texts.items():
                _place(root, path).write_bytes(text.encode())

        return write


def _text_of(path: Path) -> str:
    """Read a text with the line endings it has, which `Path.read_text` would change.

    Raises:
        UserError: if it is no text.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text. Restore or download it again.") from error


def _place(root: Path, path: str) -> Path:
    place = root / path
    if not place.resolve().is_relative_to(root.resolve()):
        raise UserError(f"The file name {path} leads out of the folder. Delete conversion.json to use new files.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # it may be a hard link to a file of another folder
    return place
