"""The folder of a training run: complete checkpoints or none, found again after any interruption."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m4v.checkpoints.weights import file_sha256, load_tensors, save_tensors
from m4v.core.errors import UserError
from m4v.core.files import atomic_path

COMPLETE = "COMPLETE"
_METADATA = "metadata.json"
_STEP_NAME = re.compile(r"^step-(\d+)$")
_STALE_NAME = re.compile(r"^\.step-\d+-[0-9a-f]{8}$")


class RunFolder:
    """Paths of a run and its checkpoints `checkpoints/step-N/`.

    A step is assembled under a temporary name, its `COMPLETE` marker (sizes and hashes of all files) is written last,
    and only then the folder gets its name. A step without a marker, or with a file of another size, does not exist as
    far as this class is concerned.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.export = self.path / "export"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.json"

    def step_path(self, step: int) -> Path:
        """Return the folder of one step, existing or not."""
        return self.checkpoints / f"step-{step}"

    def save_step(self, step: int, states: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint; an interruption at any moment leaves either the whole of it or nothing.

        Args:
            step: Number of finished optimisation steps.
            states: Tensors by part, for example `{"transformer": ..., "ema": ...}`; each part becomes one file.
            metadata: JSON values (counters, resolved config).

        Returns:
            The checkpoint's folder.

        Raises:
            UserError: if the place cannot be written.
        """
        target = self.step_path(step)
        self._remove_stale()
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for name, tensors in states.items():
                save_tensors(temporary / f"{name}.safetensors", tensors)
            (temporary / _METADATA).write_text(json.dumps(dict(metadata), indent=2) + "\n", encoding="utf-8")
            files = {
                file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                for file in sorted(temporary.iterdir())
            }
            marker = json.dumps({"step": step, "files": files}, indent=2)
            (temporary / COMPLETE).write_text(marker + "\n", encoding="utf-8")
        return target

    def steps(self) -> list[int]:
        """List the complete checkpoints, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        matches = (_STEP_NAME.match(entry.name) for entry in self.checkpoints.iterdir())
        numbers = sorted(int(match[1]) for match in matches if match)
        return [number for number in numbers if _is_complete(self.step_path(number))]

    def latest_step(self) -> int | None:
        """Return the newest complete checkpoint, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def load_step(self, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Read a checkpoint back.

        Returns:
            The tensors by part and the metadata, as given to `save_step`.

        Raises:
            UserError: if the step is absent, incomplete or its bytes changed since it was written.
        """
        return load_step_folder(self.step_path(step))

    def prune(self, keep_last: int) -> list[int]:
        """Delete all but the newest complete checkpoints.

        Args:
            keep_last: How many to keep, at least 1.

        Returns:
            The steps deleted.
        """
        assert keep_last >= 1, keep_last
        surplus = self.steps()[:-keep_last]
        for step in surplus:
            # The marker goes first, so that an interruption here leaves an incomplete step, which counts as absent.
            (self.step_path(step) / COMPLETE).unlink()
            shutil.rmtree(self.step_path(step))
        return surplus

    def _remove_stale(self) -> None:
        if self.checkpoints.is_dir():
            for entry in self.checkpoints.iterdir():
                if _STALE_NAME.match(entry.name):
                    shutil.rmtree(entry, ignore_errors=True)


def load_step_folder(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint folder, wherever it lies.

    Raises:
        UserError: if it is absent, incomplete or its bytes changed since it was written.
    """
    files = _read_marker(folder)
    if files is None:
        raise UserError(f"{folder} is not a complete checkpoint (no readable {COMPLETE} marker). Choose another step.")
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != facts["sha256"]:
            raise UserError(f"{path} is missing or changed since the checkpoint was written. Choose another step.")
    states = {Path(name).stem: load_tensors(folder / name) for name in files if name.endswith(".safetensors")}
    return states, json.loads((folder / _METADATA).read_text(encoding="utf-8"))


def _read_marker(folder: Path) -> dict[str, dict[str, Any]] | None:
    try:
        marker = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        files = marker["files"]
        return files if isinstance(files, dict) else None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        return None


def _is_complete(folder: Path) -> bool:
    files = _read_marker(folder)
    if files is None:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == facts.get("bytes")
        for name, facts in files.items()
    )
