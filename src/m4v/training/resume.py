"""Finding and checking the point a run goes on from."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from m4v.checkpoints.run_folder import RunFolder, open_step_folder
from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.training.config import STAGE_NAMES, DataConfig, RunConfig
from m4v.training.data_config import missing_folders

logger = logging.getLogger(__name__)
_MISSING = object()

# A change of these would continue with other shapes or another order of data.
_FIXED = ("seed", "data", "models", "batch_size", "columns", "images_per_window", "videos_per_window", "unit_rule")
_FIXED_KEYS = ("lora.rank", "lora.alpha", "lora.targets")


@dataclass(frozen=True)
class ResumePoint:
    """A loaded checkpoint.

    Attributes:
        tensors: Tensors by part: `weights`, `ema`, `optimizer`, `frozen`; parts that ranks wrote are not read yet.
        metadata: Counters, stage name, facts of every stage.
        config: Settings the checkpoint was made with.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    metadata: Mapping[str, Any]
    config: RunConfig

    @property
    def stage(self) -> str:
        """Stage that was being trained."""
        return str(self.metadata["stage"])

    @property
    def global_step(self) -> int:
        """Steps of the whole run."""
        return int(self.metadata["first_global_step"]) + int(self.metadata["stage_step"])


def find_resume_point(folder: RunFolder, resume: str) -> ResumePoint | None:
    """Load the checkpoint to go on from.

    Args:
        folder: The run.
        resume: `auto`: the newest complete checkpoint, if any; `never`: none; else the path of a checkpoint.

    Raises:
        UserError: if `never` meets a run that has checkpoints, or the checkpoint is not complete or not of a run.
    """
    if resume == "auto":
        step = folder.latest_step()
        return None if step is None else _load(folder.step_path(step))
    if resume == "never":
        if folder.latest_step() is not None:
            raise UserError(f"{folder.path} already holds checkpoints. Name another run folder, or resume it.")
        return None
    return _load(Path(resume))


def _load(path: Path) -> ResumePoint:
    tensors, metadata = open_step_folder(path)
    if metadata.get("stage") not in STAGE_NAMES or "config" not in metadata:
        raise UserError(f"{path} is not a checkpoint of a training run. Choose a folder checkpoints/step-N of a run.")
    return ResumePoint(tensors, metadata, from_plain(RunConfig, metadata["config"]))


def reconcile(wanted: RunConfig, point: ResumePoint, override: Sequence[str] = ()) -> RunConfig:
    """Combine the present settings with those of a checkpoint: the present ones win where that is safe.

    Networks always come from the checkpoint, which knows what was loaded and measured. The number of ranks may change.

    Args:
        wanted: Present settings.
        point: The checkpoint.
        override: Fixed settings that may differ all the same, each with everything below it.

    Raises:
        UserError: if another setting that fixes tensor shapes or the order of data differs, or an override names none.
    """
    _check_override(override, to_plain(wanted))
    wanted = dataclasses.replace(wanted, models=point.config.models, data=_complete(wanted.data, point.config.data))
    differences = list(_differences(to_plain(point.config), to_plain(wanted)))
    fatal = [line for key, line in differences if _is_fixed(key) and not _is_below(key, override)]
    if fatal:
        raise UserError(
            "The checkpoint was made with other settings that cannot change during a run:\n  "
            + "\n  ".join(fatal)
            + "\nUse the former values, name what may differ with --resume-override KEY, or start another run "
            "folder with --init-from."
        )
    for _, line in differences:
        logger.warning("Setting changed since the checkpoint: %s", line)
    return wanted


def _complete(wanted: DataConfig, stored: DataConfig) -> DataConfig:
    """Fill in what the user left to the initial model or need not say again."""
    if wanted.source == stored.source == "folder" and wanted.folder is None:
        wanted = dataclasses.replace(wanted, folder=stored.folder)
    if missing_folders(wanted) and _unplaced(wanted) == _unplaced(stored):
        wanted = dataclasses.replace(wanted, sources=stored.sources)
    return dataclasses.replace(
        wanted,
        num_frames=wanted.num_frames or stored.num_frames,
        height=wanted.height or stored.height,
        width=wanted.width or stored.width,
        fps=wanted.fps or stored.fps,
    )


def _unplaced(data: DataConfig) -> list[Any]:
    """Sources without their places, which need not be named again."""
    return [dataclasses.replace(source, path=None) for source in data.sources]


def _is_below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _check_override(names: Sequence[str], settings: Mapping[str, Any]) -> None:
    for name in names:
        value: Any = settings
        for part in name.split("."):
            value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is _MISSING:
            raise UserError(f"--resume-override {name}: there is no such setting; expected one such as data.folder.")
        if _is_below(name, ("models",)):
            raise UserError(f"--resume-override {name}: networks always are those of the checkpoint; use --init-from.")


def _is_fixed(key: str) -> bool:
    return key in _FIXED_KEYS or (key != "data.num_threads" and any(part in _FIXED for part in key.split(".")))


def _differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key, f"{key}: {before} -> {after}"
