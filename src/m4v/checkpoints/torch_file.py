"""Weights in torch's own file format, read without running the code a pickle may hold."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m4v.checkpoints.safetensors_header import TensorSpec
from m4v.core.errors import UserError

_NESTS = ("state_dict", "model", "module")
_REMAP_BYTES = 2**30


class TorchFile:
    """One `.bin`, `.pt` or `.pth` file: a state dict, by itself or under a usual name such as `state_dict`.

    Values stay on disk until they are read. What has been read is mapped memory, which the system counts as ours; the
    file is mapped anew after every GiB so that this stays bounded.

    Raises:
        UserError: if the file cannot be opened without unpickling other objects, or holds something else than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self._tensors = self._open()
        self.specs = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in self._tensors.items()}
        self._num_bytes_read = 0

    def read(self, name: str) -> Tensor:
        """Copy one tensor into memory."""
        if self._num_bytes_read > _REMAP_BYTES:
            self._tensors = self._open()
            self._num_bytes_read = 0
        self._num_bytes_read += self.specs[name].nbytes
        return self._tensors[name].detach().clone(memory_format=torch.contiguous_format)

    def _open(self) -> dict[str, Tensor]:
        path = self.path
        _require_pickle(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} holds Python objects beside tensors, and opening those can run code. If you trust where it "
                "comes from, save its tensors once as safetensors: "
                'python -c "import sys, torch; from safetensors.torch import save_file; '
                "save_file(torch.load(sys.argv[1], map_location='cpu', weights_only=False), sys.argv[2])\" "
                f"{path.name} {path.stem}.safetensors"
            ) from error
        except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path} cannot be read as torch weights ({reason}). Restore or download it again.") from (
                error
            )
        return _state_dict(path, content)


def _require_pickle(path: Path) -> None:
    """Tell what can be no torch file at all, as saved web pages and pointers of large-file storage.

    Raises:
        UserError: if the file begins neither as a zip archive nor as a pickle.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not start.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is not a torch file ({path.stat().st_size} bytes). Restore or download it again.")


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    nests = [name for name in _NESTS if isinstance(content, dict) and isinstance(content.get(name), dict)]
    if nests:
        content = content[nests[0]]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state dict. Expected tensors by name.")
    strangers = [name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strangers:
        raise UserError(
            f"{path} holds {len(strangers)} entries that are no named tensors ({', '.join(map(str, strangers[:4]))}). "
            "Save the state dict of the network alone."
        )
    return content
