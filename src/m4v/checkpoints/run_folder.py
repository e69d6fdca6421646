"""The folder of a training run: complete checkpoints or none, found again after any interruption."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m4v.checkpoints.shards import ShardedPart, is_sharded, open_shards
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
        self.remove_stale()
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for name, tensors in states.items():
                save_tensors(temporary / f"{name}.safetensors", tensors)
            (temporary / _METADATA).write_text(json.dumps(dict(metadata), indent=2) + "\n", encoding="utf-8")
            mark_complete(temporary)
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

    def prune(self, keep_last: int, keep_every: int = 0) -> list[int]:
        """Delete all complete checkpoints but the newest, and those to be kept for good.

        Args:
            keep_last: How many of the newest to keep, at least 1.
            keep_every: Steps divisible by this are kept for good; 0 means none.

        Returns:
            The steps deleted.
        """
        assert keep_last >= 1, keep_last
        surplus = [step for step in self.steps()[:-keep_last] if not keep_every or step % keep_every]
        for step in surplus:
            # The marker goes first, so that an interruption here leaves an incomplete step, which counts as absent.
            (self.step_path(step) / COMPLETE).unlink()
            shutil.rmtree(self.step_path(step))
        return surplus

    def remove_stale(self) -> None:
        """Delete what interrupted saves left behind."""
        if self.checkpoints.is_dir():
            for entry in self.checkpoints.iterdir():
                if _STALE_NAME.match(entry.name):
                    shutil.rmtree(entry, ignore_errors=True)


def mark_complete(folder: Path) -> None:
    """Write the marker that makes a folder a checkpoint: names, sizes and hashes of all its files.

    Shards are marked by their sizes alone, because one process would have to read again what many have written.
    """
    files: dict[str, dict[str, Any]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        files[name] = {"bytes": file.stat().st_size}
        if "/" not in name:
            files[name]["sha256"] = file_sha256(file)
    marker = json.dumps({"files": files}, indent=2)
    (folder / COMPLETE).write_text(marker + "\n", encoding="utf-8")


def check_step_folder(folder: Path) -> dict[str, Any]:
    """Check a checkpoint folder, wherever it lies, and read its metadata.

    Raises:
        UserError: if it is absent, incomplete or its bytes changed since it was written.
    """
    files = _read_marker(folder)
    if files is None:
        raise UserError(f"{folder} is not a complete checkpoint (no readable {COMPLETE} marker). Choose another step.")
    for name, facts in files.items():
        path = folder / name
        is_same = path.is_file() and path.stat().st_size == facts.get("bytes")
        if not is_same or ("sha256" in facts and file_sha256(path) != facts["sha256"]):
            raise UserError(f"{path} is missing or changed since the checkpoint was written. Choose another step.")
    metadata: dict[str, Any] = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    return metadata


def open_step_folder(folder: Path) -> tuple[Mapping[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Open one checkpoint folder, wherever it lies; parts that several ranks wrote are read as they are needed.

    Returns:
        Tensors by part, some as `ShardedPart`, and the metadata.

    Raises:
        UserError: if it is absent, incomplete or its bytes changed since it was written.
    """
    metadata = check_step_folder(folder)
    if is_sharded(folder):
        return open_shards(folder), metadata
    return {file.stem: load_tensors(file) for file in sorted(folder.glob("*.safetensors"))}, metadata


def load_step_folder(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint folder, wherever it lies, into main memory.

    Raises:
        UserError: if it is absent, incomplete or its bytes changed since it was written.
    """
    parts, metadata = open_step_folder(folder)
    whole = {name: part.load() if isinstance(part, ShardedPart) else dict(part) for name, part in parts.items()}
    return whole, metadata


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
