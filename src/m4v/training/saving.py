"""Writing the checkpoints of a run: whole ones by one rank, sharded ones by all ranks in the background."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from m4v.checkpoints.run_folder import RunFolder
from m4v.checkpoints.sharded import BackgroundSaver
from m4v.training.config import SavingConfig
from m4v.training.parallel import Parallel


class Saver:
    """Saves and prunes the checkpoints of a run; all ranks call it alike.

    Args:
        folder: The run.
        config: Which checkpoints are kept.
        parallel: The ranks.
    """

    def __init__(self, folder: RunFolder, config: SavingConfig, parallel: Parallel) -> None:
        self.folder = folder
        self.config = config
        self.parallel = parallel
        self._background = None if parallel.saving is None else BackgroundSaver(folder, parallel.saving, parallel.rank)

    def save(self, step: int, states: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any]) -> None:
        """Write a checkpoint, and delete old ones once it is there.

        Args:
            step: Number of finished optimisation steps.
            states: Tensors by part.
            metadata: JSON values.

        Raises:
            UserError: if it, or the one before it, cannot be written; earlier ones are untouched.
        """
        is_sharded = any(isinstance(value, DTensor) for tensors in states.values() for value in tensors.values())
        if is_sharded and self._background is not None:
            self.finish()
            self._background.start(step, states, metadata)
            return
        with self.parallel.on_main() as is_main:
            if is_main:
                self.folder.save_step(step, states, metadata)
                self._prune()

    def poll(self) -> None:
        """Complete a checkpoint that all ranks have written."""
        if self._background is not None and self._background.is_busy:
            (is_writing,) = self.parallel.largest(not self._background.is_written())
            if not is_writing:
                self.finish()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written.

        Raises:
            UserError: if it cannot be written.
        """
        if self._background is not None and self._background.finish() is not None and self.parallel.is_main:
            self._prune()

    def _prune(self) -> None:
        self.folder.prune(self.config.keep_last, self.config.keep_every)
