"""Checkpoints of networks spread over ranks: every rank writes its own safetensors file, in the background.

torch's distributed checkpointing plans who writes and reads what; its safetensors storage keeps user files free of
pickles, and lets another number of ranks, or a single process, read the parts it needs.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from m4v.checkpoints.run_folder import RunFolder, mark_complete
from m4v.checkpoints.shards import SHARDS
from m4v.core.errors import UserError


class BackgroundSaver:
    """Writes one checkpoint at a time while training goes on; every rank owns one and calls the same methods.

    Args:
        folder: The run.
        group: Process group of its own on CPUs. A group shared with other traffic makes ranks abort at exit.
        rank: Number of this process.
    """

    def __init__(self, folder: RunFolder, group: dist.ProcessGroup, rank: int) -> None:
        self.folder = folder
        self.group = group
        self.rank = rank
        self._pending: tuple[Future[Any], Path, Path] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written, by what this rank knows."""
        return self._pending is not None

    def start(self, step: int, states: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any]) -> None:
        """Copy everything to main memory, and begin to write it; a checkpoint still being written is waited for.

        Args:
            step: Number of finished optimisation steps.
            states: Tensors by part; sharded ones are written by the ranks that hold them.
            metadata: JSON values, of rank 0.

        Raises:
            UserError: if the former checkpoint could not be written.
        """
        self.finish()
        target = self.folder.step_path(step)
        temporary = target.with_name(self._from_main(f".{target.name}-{secrets.token_hex(4)}"))
        problem = None
        if self.rank == 0:
            try:
                self.folder.remove_stale()
                (temporary / SHARDS).mkdir(parents=True)
                (temporary / "metadata.json").write_text(json.dumps(dict(metadata), indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                problem = _cannot_write(target, error)
                shutil.rmtree(temporary, ignore_errors=True)
        problem = self._from_main(problem)
        if problem is not None:
            raise UserError(problem)
        flat = {
            f"{part}/{name}": _snapshot(value) for part, tensors in states.items() for name, value in tensors.items()
        }
        writer = HuggingFaceStorageWriter(str(temporary / SHARDS), save_distributed=True)
        saved = dcp.async_save(flat, storage_writer=writer, process_group=self.group)
        assert isinstance(saved, Future)
        self._pending = (saved, temporary, target)

    def is_written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return self._pending is None or self._pending[0].done()

    def finish(self) -> Path | None:
        """Wait for the writing of all ranks; then rank 0 marks the checkpoint complete and gives it its name.

        Returns:
            The checkpoint's folder, or None if nothing was being written.

        Raises:
            UserError: on every rank, if one of them could not write. Earlier checkpoints are untouched.
        """
        if self._pending is None:
            return None
        future, temporary, target = self._pending
        self._pending = None
        problem: str | None = None
        try:
            future.result()
        except (CheckpointException, OSError, RuntimeError) as error:
            problem = _cannot_write(target, error)
        problems: list[str | None] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(problems, problem, group=self.group)
        problem = next((text for text in problems if text), None)
        if self.rank == 0:
            if problem is None:
                try:
                    mark_complete(temporary)
                    if target.exists():
                        shutil.rmtree(target)
                    temporary.replace(target)
                except OSError as error:
                    problem = _cannot_write(target, error)
            shutil.rmtree(temporary, ignore_errors=True)
        problem = self._from_main(problem)
        if problem is not None:
            raise UserError(problem)
        return target

    def _from_main(self, value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


def _snapshot(value: Tensor) -> Tensor:
    """A CPU tensor's copy: the library copies from devices, but writes tensors of main memory as they then are."""
    return value.detach().clone() if value.device.type == "cpu" else value.detach()


def _cannot_write(target: Path, error: BaseException) -> str:
    """Name the first reason in an error of the library, which holds one per rank."""
    failures = getattr(error, "failures", None) or {}
    first = next(iter(failures.values()), None)
    cause = first[0] if first else error
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return (
        f"Cannot write the checkpoint {target}: {reason}. Earlier checkpoints are untouched; free some space and run "
        "the same command again."
    )
