"""Trained models that a study compares: each is a recipe, a start and perhaps a conversion, and is made only once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba
from m4v.checkpoints.run_folder import RunFolder
from m4v.core.devices import choose_device
from m4v.core.errors import UserError
from m4v.training.config import RunConfig
from m4v.training.progress import OnProgress, Progress
from m4v.training.run import train


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study.

    Attributes:
        name: Unique in the study; names its run folder.
        arm: What it is an example of; trials of one arm differ by seed only. Empty: a preparation, not compared.
        config: Recipe.
        start: Name of the trial it starts from, or a model folder; None starts from nothing.
        conversion: How the start's attention becomes a scan first; the start is also the teacher of a match stage.
    """

    name: str
    arm: str
    config: RunConfig
    start: str | Path | None = None
    conversion: MambaInitialisation | None = None

    def num_steps(self, device_type: str) -> int:
        """Optimiser steps of all stages."""
        return sum(steps for _, steps in self.config.stages(device_type))


class TrialFolder:
    """Where the trials of a study lie: `runs/NAME`, `converted/NAME`, and one cache of latents for all.

    Args:
        path: Made if needed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def run(self, name: str) -> Path:
        """Run folder of a trial."""
        return self.path / "runs" / name

    def model(self, start: str | Path) -> Path:
        """Model folder of a trial, or the folder itself."""
        return start if isinstance(start, Path) else self.run(start) / "export"

    def make(self, trials: Sequence[Trial], *, device: str, on_progress: OnProgress) -> None:
        """Train what is not trained yet, in order; an interrupted call goes on where it stopped.

        Raises:
            UserError: if a trial starts from one that comes later, or training fails.
        """
        place = choose_device(device)
        known: set[str] = set()
        for number, trial in enumerate(trials, start=1):
            if isinstance(trial.start, str) and trial.start not in known:
                raise UserError(f"Trial {trial.name} starts from {trial.start}, which is not made before it.")
            known.add(trial.name)
            folder = RunFolder(self.run(trial.name))
            if folder.latest_step() == trial.num_steps(place.type) and folder.export.is_dir():
                continue
            message = f"{trial.name}: {number} of {len(trials)} runs"
            on_progress(Progress(phase="study", done=number - 1, total=len(trials), message=message))
            self._share_cache(folder.path)
            init_from, config = self._start(trial)
            train(config, run_dir=folder.path, init_from=init_from, device=device, on_progress=on_progress)
            if folder.latest_step() != trial.num_steps(place.type):
                # Stopped by a signal, which ends training gently: the trials after it must not begin.
                raise UserError(f"{trial.name} was stopped at step {folder.latest_step()}; the same command goes on.")

    def _start(self, trial: Trial) -> tuple[Path | None, RunConfig]:
        if trial.start is None:
            return None, trial.config
        source = self.model(trial.start)
        if trial.conversion is None:
            return source, trial.config
        converted = self.path / "converted" / trial.name
        if not converted.is_dir():
            convert_attention_to_mamba(source, converted, trial.conversion)
        return converted, replace(trial.config, match=replace(trial.config.match, teacher=str(source)))

    def _share_cache(self, run: Path) -> None:
        """Trials see the same clips through the same autoencoder; the cache tells others apart by content."""
        shared = self.path / "cache"
        shared.mkdir(parents=True, exist_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "cache").exists():
            (run / "cache").symlink_to(shared.resolve(), target_is_directory=True)
