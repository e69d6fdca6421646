"""`m4v evaluate toybox`: how often a model shows what its prompt says, beside ceilings and floors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m4v.checkpoints.bundled import default_bundled_model
from m4v.cli.console import duration, progress, result, say
from m4v.cli.evaluate_compare import CompareArguments, compare
from m4v.cli.evaluate_study import STUDY
from m4v.cli.evaluate_vbench import VBenchExportArguments, VBenchScoreArguments, vbench_export, vbench_score
from m4v.cli.json_output import STANDARD_OUTPUT, write_json
from m4v.cli.opening import open_pipeline
from m4v.cli.output_paths import require_writable
from m4v.cli.tables import print_table
from m4v.cli.verb import Action, Verb
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.evaluation.generation import GenerationOptions, Steps
    from m4v.evaluation.scores import Scores
    from m4v.evaluation.steps_curve import StepsPoint
    from m4v.evaluation.toybox_benchmark import BenchmarkReport
    from m4v.pipelines.m4v_pipeline import M4VPipeline


@dataclass(frozen=True, kw_only=True)
class ToyboxArguments:
    """Score a model on fixed prompts of the toybox world: colour, object and motion, judged from pixels by rule.

    Attributes:
        model: Model folder, bundled name, or hub id owner/name. Default: the best bundled model.
        tier: World whose prompts are used: xs, s or m.
        limit: Prompts of each list, for a quick look: a fixed mixed choice. Default: all.
        seed: Seed of the noise; each prompt gets one video.
        batch_size: Videos made at a time; changes speed and memory, not results.
        steps: Solver steps per pyramid level of the first and the later units, as 4/3, or one entry for both; an entry
            is one number, or one per level, as 4,4,2. Default: the model's own.
        guidance: Guidance of the first and later units as 7,5, or one number for both. Default: the model's own.
        steps_curve: Score several settings of steps instead, as 1/1 2/2 4/3 8/5 (seen prompts only).
        confusions: Also print what is mistaken for what.
        device: Where to compute.
        dtype: Precision of the network; auto is bfloat16 on CUDA, float32 elsewhere.
        save_dir: Folder for captioned contact sheets, mp4 files and the judge's answers.
        json: Also write the scores as JSON, to a file or, with - or no value, to standard output.
    """

    model: str | None = None
    tier: Literal["xs", "s", "m"] = "xs"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 16
    steps: str | None = None
    guidance: str | None = None
    steps_curve: tuple[str, ...] = ()
    confusions: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    save_dir: Path | None = None
    json: str | None = None


def toybox(arguments: ToyboxArguments) -> None:
    """Run the benchmark, or the curve of scores against steps.

    Raises:
        UserError: for input that cannot be used.
    """
    steps = (None, None) if arguments.steps is None else _steps("--steps", arguments.steps)
    guidance = _guidance(arguments.guidance)
    curve = [_steps("--steps-curve", text) for text in arguments.steps_curve]
    if curve and (arguments.save_dir is not None or arguments.steps is not None or arguments.confusions):
        raise UserError("--steps-curve goes with none of --steps, --save-dir and --confusions; leave them out.")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit is {arguments.limit}; use 1 or more prompts.")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}; use 1 or more.")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}; use 0 or more.")
    if arguments.json not in (None, STANDARD_OUTPUT):
        require_writable(Path(arguments.json))
    if arguments.save_dir is not None:
        require_writable(arguments.save_dir / "seen.png")
    model = arguments.model or default_bundled_model()

    from m4v.evaluation.generation import GenerationOptions

    say(f"Opening {model} ...")
    pipeline = open_pipeline(model, arguments.device, arguments.dtype)
    options = GenerationOptions(
        first_steps=steps[0], later_steps=steps[1], first_guidance=guidance[0], later_guidance=guidance[1]
    )
    if curve:
        _run_curve(pipeline, model, arguments, options, curve)
    else:
        _run_benchmark(pipeline, model, arguments, options)


def _run_benchmark(
    pipeline: "M4VPipeline", model: str, arguments: ToyboxArguments, options: "GenerationOptions"
) -> None:
    from m4v.evaluation.saving import save_clips
    from m4v.evaluation.toybox_benchmark import run_benchmark

    with progress("generating") as advance:
        report = run_benchmark(
            pipeline,
            arguments.tier,
            seed=arguments.seed,
            limit=arguments.limit,
            options=options,
            batch_size=arguments.batch_size,
            on_progress=advance,
        )
    sheets = () if arguments.save_dir is None else save_clips(report, arguments.save_dir)
    if arguments.json is not None:
        write_json(arguments.json, {"model": model, **_used(pipeline, options), **report.to_json()})
    if arguments.json == STANDARD_OUTPUT:
        return
    _print_report(model, report)
    if arguments.confusions:
        _print_confusions(report)
    for sheet in sheets:
        result(str(sheet))


def _run_curve(
    pipeline: "M4VPipeline",
    model: str,
    arguments: ToyboxArguments,
    options: "GenerationOptions",
    curve: "Sequence[tuple[Steps, Steps]]",
) -> None:
    from m4v.evaluation.steps_curve import steps_curve

    with progress("generating") as advance:
        points = steps_curve(
            pipeline,
            curve,
            arguments.tier,
            seed=arguments.seed,
            limit=arguments.limit,
            options=options,
            batch_size=arguments.batch_size,
            on_progress=advance,
        )
    if arguments.json is not None:
        rows = [point.to_json() for point in points]
        facts = {"model": model, "tier": arguments.tier, "seed": arguments.seed}
        write_json(arguments.json, {**facts, "steps_curve": rows})
    if arguments.json != STANDARD_OUTPUT:
        _print_curve(model, points)


def _used(pipeline: "M4VPipeline", options: "GenerationOptions") -> dict[str, Any]:
    """Say which steps and guidance were in force."""
    defaults = pipeline.generation_defaults
    later_steps = options.first_steps if options.later_steps is None else options.later_steps
    return {
        "first_steps": defaults.first_steps if options.first_steps is None else options.first_steps,
        "later_steps": defaults.later_steps if later_steps is None else later_steps,
        "first_guidance": defaults.first_guidance if options.first_guidance is None else options.first_guidance,
        "later_guidance": defaults.later_guidance if options.later_guidance is None else options.later_guidance,
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }


def _print_report(model: str, report: "BenchmarkReport") -> None:
    titles = {
        "ceiling": "ceiling: true renders",
        "codec": "ceiling: after the autoencoder",
        "wrong_caption": "floor: wrong captions",
        "noise": "floor: noise",
    }
    rows: list[Sequence[str]] = []
    for name, group in report.groups.items():
        heading = {"seen": "seen combinations", "held_out": "held-out object and colour"}[name]
        rows.append((f"{heading} ({len(group.prompts)} prompts)", "", "", "", ""))
        rows.append((f"  {Path(model).name}", *_cells(group.scores, has_intervals=True)))
        rows += [(f"  {titles[anchor]}", *_cells(scores)) for anchor, scores in group.anchors.items()]
    print_table("Toybox scores, percent [95 % interval]", ("", "colour", "object", "motion", "all three"), rows)
    for name, group in report.groups.items():
        if group.psnr is not None:
            result(
                f"autoencoder round trip ({name.replace('_', '-')} renders): "
                f"{group.psnr:.1f} dB, on object pixels {group.object_psnr:.1f} dB"
            )
    result(f"{report.seconds_per_clip:.2f} s a clip in batches; tier {report.tier}, seed {report.seed}")


def _cells(scores: "Scores", *, has_intervals: bool = False) -> tuple[str, str, str, str]:
    values: Mapping[str, float] = {"colour": scores.colour, "object": scores.object, "motion": scores.motion}
    cells = []
    for axis, value in values.items():
        low, high = scores.intervals[axis]  # type: ignore[index]
        cells.append(f"{100 * value:.1f}" + (f" [{100 * low:.0f}-{100 * high:.0f}]" if has_intervals else ""))
    return cells[0], cells[1], cells[2], f"{100 * scores.all:.1f}"


def _print_confusions(report: "BenchmarkReport") -> None:
    from m4v.evaluation.scores import AXES, confusion

    for name, group in report.groups.items():
        for axis in AXES:
            table = confusion(group.judged, axis)
            rows = [
                (row, *(str(count) if count else "." for count in counts))
                for row, counts in zip(table.rows, table.counts, strict=True)
            ]
            print_table(f"{name.replace('_', '-')} {axis}: asked for (row), seen (column)", ("", *table.columns), rows)


def _print_curve(model: str, points: "Sequence[StepsPoint]") -> None:
    rows = [
        (
            _steps_text(point.first_steps),
            _steps_text(point.later_steps),
            *_cells(point.scores),
            f"{point.seconds_per_clip:.2f}",
            duration(point.seconds_alone) if point.seconds_alone >= 100 else f"{point.seconds_alone:.2f}",
        )
        for point in points
    ]
    columns = ("first", "later", "colour", "object", "motion", "all three", "s a clip", "s alone")
    print_table(f"{Path(model).name}: scores (percent, seen prompts) against solver steps per level", columns, rows)


def _steps_text(steps: "Steps") -> str:
    return str(steps) if isinstance(steps, int) else ",".join(map(str, steps))


def _steps(flag: str, text: str) -> "tuple[Steps, Steps]":
    """Read the entries of the first and the later units; a single entry serves both."""
    try:
        entries = [tuple(int(number) for number in part.split(",")) for part in text.split("/")]
    except ValueError:
        entries = []
    if len(entries) not in (1, 2) or any(number < 1 for entry in entries for number in entry):
        raise UserError(
            f"{flag} has {text!r}; expected steps of the first and later units, such as 4/3 or 4,4,2/3,3,2."
        )
    first, later = (entry[0] if len(entry) == 1 else entry for entry in (entries[0], entries[-1]))
    return first, later


def _guidance(text: str | None) -> tuple[float | None, float | None]:
    """Read one scale for all units, or one for the first and one for the later ones."""
    if text is None:
        return None, None
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2) or not all(0 <= scale < inf for scale in scales):
        raise UserError(f"--guidance is {text!r}; give one number, or two: first and later frames.")
    return scales[0], scales[-1]


VERB: Verb = {
    "toybox": Action(ToyboxArguments, toybox),
    "vbench-export": Action(VBenchExportArguments, vbench_export),
    "vbench-score": Action(VBenchScoreArguments, vbench_score),
    "compare": Action(CompareArguments, compare),
    "study": STUDY,
}
