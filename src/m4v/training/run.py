"""A whole run: its stages in order, each resumable, ending in an exported model (Appendix D: progressive training)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from m4v.checkpoints.resolve import resolve_model
from m4v.checkpoints.run_folder import RunFolder
from m4v.core.devices import choose_device
from m4v.core.errors import UserError
from m4v.training.config import RunConfig
from m4v.training.data_config import missing_folders, with_folder
from m4v.training.metrics import ManySinks, MetricSink, open_sinks
from m4v.training.parallel import parallel_session, place_of_rank
from m4v.training.precision import fast_kernels
from m4v.training.progress import OnProgress, Progress, ignore_progress
from m4v.training.resume import ResumePoint, find_resume_point, reconcile
from m4v.training.round_trip import skips_vae_stage
from m4v.training.stages import make_stage
from m4v.training.stopping import StopSignal
from m4v.training.workbench import Workbench


def train(
    config: RunConfig,
    *,
    run_dir: Path | str,
    data: Path | str | None = None,
    resume: str = "auto",
    init_from: Path | str | None = None,
    resume_override: Sequence[str] = (),
    device: str = "auto",
    max_seconds: float | None = None,
    max_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Train all stages of a recipe, or go on where the run folder stopped.

    A run that stops early (time or step limit, Ctrl-C, termination) saves a checkpoint, exports what it has and returns
    as usual; the same call goes on from there.

    Args:
        config: The recipe.
        run_dir: Run folder, made if needed.
        data: Folder of captioned videos, instead of the recipe's own data.
        resume: `auto`, `never`, or the path of a checkpoint.
        init_from: Model folder, run folder or bundled name whose weights a new run starts from.
        resume_override: Settings, such as `data.folder`, that may differ from a checkpoint's although they fix tensor
            shapes or the order of data.
        device: `auto`, or a torch device.
        max_seconds: Wall-clock budget; no step begins after it.
        max_steps: Most steps taken now, at least 1.
        on_progress: Told what happens.

    Returns:
        The exported model folder.

    Raises:
        UserError: if settings, data or folders cannot be used, or training diverges (`TrainingDiverged`).

    Example:
        >>> train(get_recipe("debug"), run_dir="runs/debug")
    """
    stop = StopSignal(max_seconds, max_steps)
    place = place_of_rank(choose_device(device))
    config = replace(config, data=with_folder(config.data, data))
    folder = RunFolder(run_dir)
    with parallel_session(config.parallel, place) as parallel, fast_kernels(place), stop.listening():
        report = (on_progress if parallel.is_main else None) or ignore_progress
        point = find_resume_point(folder, resume)
        if point is not None:
            config = reconcile(config, point, resume_override)
            report(Progress(phase=point.stage, done=0, total=0, message=f"Resuming at step {point.global_step}."))
        _check_start(config, place, has_weights=point is not None or init_from is not None)
        bench = Workbench(
            config,
            folder,
            place,
            stop=stop,
            on_progress=report,
            init_from=None if init_from is None else find_model_folder(init_from),
            is_resumed=point is not None,
            parallel=parallel,
        )
        sink = _open_sinks(config, folder, point) if parallel.is_main else ManySinks([])
        try:
            _run_stages(bench, point, sink)
        finally:
            sink.close()
    return folder.export


def _open_sinks(config: RunConfig, folder: RunFolder, point: ResumePoint | None) -> MetricSink:
    return open_sinks(folder.path, 0 if point is None else point.global_step, config.saving.trackers)


def _check_start(config: RunConfig, device: torch.device, *, has_weights: bool) -> None:
    """Refuse a run that could only end in noise."""
    first_stage, _ = config.stages(device.type)[0]
    if missing := missing_folders(config.data):
        names = ", ".join(source.path or source.name for source in missing)
        raise UserError(
            f"Recipe {config.name} trains on your own videos; give their folder with --data DIR. Not there: {names}."
        )
    if first_stage != "vae" and not has_weights:
        raise UserError(
            f"Recipe {config.name} begins with {first_stage}, which needs a trained autoencoder; give a model or run "
            "folder with --init-from."
        )


def _run_stages(bench: Workbench, point: ResumePoint | None, sink: MetricSink) -> None:
    stages = bench.config.stages(bench.device.type)
    names = [str(name) for name, _ in stages]
    if point is not None and point.stage not in names:
        raise UserError(f"The checkpoint is of stage {point.stage}, but the recipe has only {', '.join(names)}.")
    first = 0 if point is None else names.index(point.stage)
    first_global_step = 0
    if point is not None:
        bench.stage_facts.update(point.metadata["stages"])
        bench.starts_whole = bool(point.metadata.get("starts_whole"))
        first_global_step = int(point.metadata["first_global_step"])
    elif skips_vae_stage(bench):
        first = int(names[0] == "vae" and len(names) > 1)
    for index, (name, num_steps) in enumerate(stages[first:], start=first):
        stage = make_stage(bench, name, num_steps, first_global_step, point if index == first else None)
        reason = stage.run(sink)
        first_global_step = stage.state.global_step
        if reason is not None:
            message = f"{name}: {reason} at step {stage.state.step} of {num_steps}; run the same command to go on."
            bench.on_progress(Progress(phase=name, done=stage.state.step, total=num_steps, message=message))
            return


def find_model_folder(name: Path | str) -> Path:
    """Find what `--init-from` names: a run folder's export, a model folder or part of one, or a bundled model."""
    path = Path(name)
    if (path / "export").is_dir():
        return path / "export"
    if any((path / part).is_dir() for part in ("vae", "transformer", "text_encoder")):
        return path
    return resolve_model(name)
