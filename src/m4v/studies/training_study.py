"""Runs a question about training: trains what is missing, measures what is not measured, writes JSON, picture, rows."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m4v.checkpoints.resolve import resolve_model
from m4v.core.devices import choose_device
from m4v.core.files import atomic_path
from m4v.studies.measures import held_out_loss, measure_drift, toybox_scores
from m4v.studies.study_picture import write_picture
from m4v.studies.training_questions import SIZES, Plan, StudySize, make_plan
from m4v.studies.trials import Trial, TrialFolder
from m4v.training.curves import read_curves
from m4v.training.progress import OnProgress, Progress, ignore_progress

_RESULTS = "results.json"


def run_study(
    question: str,
    size_name: str,
    folder: Path,
    *,
    device: str = "auto",
    step_scale: float = 1.0,
    on_progress: OnProgress = ignore_progress,
) -> dict[str, Any]:
    """Answer a question; a second call with the same folder does only what is missing.

    Args:
        question: `conversion`, `corruption`, `mixing` or `ladder`.
        size_name: `debug`, `xs` or `gpu`.
        folder: Holds the trained models and, at the end, `results.json`, `results.png` (with Matplotlib) and
            `results.md`.
        device: `auto`, or a torch device.
        step_scale: Multiplies all step counts.
        on_progress: Told what happens.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: if there is no such question or size, or training fails.
    """
    size = SIZES.get(size_name)
    start = None if size is None or size.start is None else _autoencoder_of(size.start, folder)
    plan = make_plan(question, size_name, start, step_scale)
    size = SIZES[size_name]
    trials = TrialFolder(folder)
    trials.make(plan.trials, device=device, on_progress=on_progress)
    place = choose_device(device)
    results: dict[str, Any] = {
        "question": question,
        "title": plan.title,
        "size": size_name,
        "step_scale": step_scale,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "torch": torch.__version__,
        "trials": {},
    }
    for trial in plan.trials:
        if trial.arm:
            message = f"measure {trial.name}"
            on_progress(Progress(phase="study", done=0, total=0, message=message))
            results["trials"][trial.name] = _measured(trial, plan, size, trials, device, on_progress)
    results["arms"] = summarise(results["trials"])
    with atomic_path(folder / _RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")
    write_picture(results, folder / "results.png")
    return results


def _autoencoder_of(name: str, folder: Path) -> Path:
    """A folder with nothing but the autoencoder of a bundled model, so that trials build the rest anew."""
    target = folder / "start"
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "vae").exists():
        (target / "vae").symlink_to((resolve_model(name) / "vae").resolve(), target_is_directory=True)
    return target


def _measured(
    trial: Trial, plan: Plan, size: StudySize, trials: TrialFolder, device: str, on_progress: OnProgress
) -> dict[str, Any]:
    """Everything known about a finished trial; measured once and kept beside it."""
    run = trials.run(trial.name)
    kept = run / "measures.json"
    if kept.is_file():
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    place = choose_device(device)
    facts = json.loads((run / "export" / "training.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {
        "arm": trial.arm,
        "seed": trial.config.seed,
        "steps": trial.num_steps(place.type),
        "items": sum(int(stage.get("items", 0)) for stage in facts["stages"].values()),
        "seconds": round(sum(float(stage.get("seconds", 0)) for stage in facts["stages"].values()), 1),
        "curves": {
            curves.name: {"steps": curves.steps, "loss": [line["loss"] for line in curves.values]}
            for curves in read_curves(run / "metrics.jsonl")
        },
    }
    model, tier = trials.model(trial.name), trial.config.data.tier
    if "loss" in plan.measures:
        result["held_out"] = held_out_loss(
            model,
            trial.config,
            num_clips=max(size.num_clips // 8, 4),
            num_batches=size.num_batches,
            batch_size=3 * max(size.batch_size // 4, 1),
            cache=trials.path / "cache",
            device=device,
            on_progress=on_progress,
        )
    if "drift" in plan.measures:
        drift = measure_drift(model, tier, num_prompts=size.num_prompts, seed=trial.config.seed, device=device)
        result["drift"] = drift.to_json()
    if "scores" in plan.measures:
        result["scores"] = toybox_scores(model, tier, num_prompts=size.num_prompts, seed=0, device=device)
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def summarise(trials: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means over the seeds of every arm, and the spread (lowest and highest) of the held-out loss."""
    by_arm: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trial in trials.values():
        by_arm[trial["arm"]].append(trial)
    arms: dict[str, dict[str, Any]] = {}
    for arm, members in by_arm.items():
        summary: dict[str, Any] = {
            "seeds": len(members),
            "steps": members[0]["steps"],
            "seconds": round(float(np.mean([member["seconds"] for member in members])), 1),
        }
        if "held_out" in members[0]:
            losses = [member["held_out"]["loss"] for member in members]
            summary["held_out_loss"] = {"mean": float(np.mean(losses)), "low": min(losses), "high": max(losses)}
            names = members[0]["held_out"]
            summary["held_out"] = {
                name: float(np.mean([member["held_out"][name] for member in members])) for name in names
            }
        if "drift" in members[0]:
            summary["drift"] = {
                name: np.mean([member["drift"][name] for member in members], axis=0).round(4).tolist()
                for name in members[0]["drift"]
            }
        if "scores" in members[0]:
            summary["scores"] = {
                group: {
                    axis: float(np.mean([member["scores"][group][axis] for member in members]))
                    for axis in ("colour", "object", "motion")
                }
                for group in members[0]["scores"]
            }
        arms[arm] = summary
    return arms


def markdown(results: Mapping[str, Any]) -> str:
    """A table of the arms, for the log."""
    arms: Mapping[str, Mapping[str, Any]] = results["arms"]
    first = next(iter(arms.values()))
    columns: list[str] = ["arm", "seeds", "steps", "training s"]
    columns += ["held-out loss (low to high)"] if "held_out_loss" in first else []
    columns += ["background dB by unit", "oracle by unit"] if "drift" in first else []
    columns += ["seen colour / object / motion", "held out colour / object / motion"] if "scores" in first else []
    lines = [
        f"**{results['title']}** Size `{results['size']}`, {results['device']}, torch {results['torch']}.",
        "",
        _row(columns),
        _row(["---"] * len(columns)),
    ]
    for arm, summary in arms.items():
        cells = [arm, str(summary["seeds"]), str(summary["steps"]), f"{summary['seconds']:.0f}"]
        if "held_out_loss" in summary:
            loss = summary["held_out_loss"]
            cells.append(f"{loss['mean']:.4f} ({loss['low']:.4f} to {loss['high']:.4f})")
        if "drift" in summary:
            cells.append(", ".join(f"{value:.1f}" for value in summary["drift"]["background_psnr"]))
            cells.append(", ".join(f"{value:.2f}" for value in summary["drift"]["oracle"]))
        if "scores" in summary:
            cells += [_shares(summary["scores"][group]) for group in ("seen", "held_out")]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _shares(scores: Mapping[str, float]) -> str:
    return " / ".join(f"{scores[axis]:.2f}" for axis in ("colour", "object", "motion"))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
