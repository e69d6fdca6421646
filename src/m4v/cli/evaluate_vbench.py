"""`m4v evaluate vbench-export` and `vbench-score`: videos for VBench, and its totals from its result files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.checkpoints.bundled import default_bundled_model
from m4v.cli.console import progress, result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.opening import open_pipeline
from m4v.cli.tables import print_table
from m4v.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from m4v.cli.opening import AnyPipeline
    from m4v.evaluation.vbench.suite import SuitePrompt


@dataclass(frozen=True, kw_only=True)
class VBenchExportArguments:
    """Make the videos of VBench's standard suite, under the names that VBench expects.

    Attributes:
        out: Folder for the videos and manifest.json. The same command goes on where it stopped.
        suite: Copy of VBench's repository, or its VBench_full_info.json.
        model: Model folder, bundled name, or hub id owner/name. Default: the best bundled model.
        dimension: Only the prompts of these dimensions, for example --dimension color scene.
        fast: Only this many prompts, drawn from all suites in turn (50 in the paper's fast protocol).
        lengthened: Text file with one longer prompt per line, in the order of the suite's prompts/all_dimension.txt;
            videos are still named after the short ones.
        videos: Videos per prompt.
        seed: Root of the seeds; every video has its own.
        frames: Frames of a video. Default: the model's own, as for the next four.
        height: Rows.
        width: Columns.
        steps: Solver steps per pyramid level of all units.
        guidance: Guidance of all units.
        check: Only say what is missing, misnamed or empty.
        device: Where to compute.
        dtype: Precision of the network; auto is bfloat16 on CUDA, float32 elsewhere.
    """

    out: Annotated[Path, tyro.conf.Positional]
    suite: Path
    model: str | None = None
    dimension: tuple[str, ...] = ()
    fast: int | None = None
    lengthened: Path | None = None
    videos: int = 5
    seed: int = 0
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    check: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


@dataclass(frozen=True, kw_only=True)
class VBenchScoreArguments:
    """Compute Quality, Semantic and Total from VBench's result files.

    Attributes:
        results: Result JSON, folder of them, or submission zip.
        json: Also write the scores as JSON, to a file or, with - or no value, to standard output.
    """

    results: Annotated[Path, tyro.conf.Positional]
    json: str | None = None


def vbench_export(arguments: VBenchExportArguments) -> None:
    """Export, or check an export.

    Raises:
        UserError: for input that cannot be used, and with --check if anything is missing.
    """
    from m4v.evaluation.vbench.suite import draw_stratified, read_suite

    if arguments.videos < 1 or arguments.seed < 0:
        raise UserError(f"--videos is {arguments.videos} and --seed {arguments.seed}; use at least 1 and 0.")
    prompts = read_suite(arguments.suite, arguments.dimension)
    if arguments.fast is not None:
        prompts = draw_stratified(prompts, arguments.fast, arguments.seed)
    if arguments.check:
        _check(arguments, prompts)
        return
    from m4v.evaluation.vbench.export import ExportPlan, export_videos

    spoken = {} if arguments.lengthened is None else _lengthened(arguments.lengthened, arguments.suite)
    model = arguments.model or default_bundled_model()
    say(f"Opening {model} ...")
    pipeline = open_pipeline(model, arguments.device, arguments.dtype)
    options = _options(arguments)
    plan = ExportPlan(
        prompts=prompts,
        fps=pipeline.generation_defaults.fps,
        facts=_facts(model, pipeline, options),
        spoken={prompt.text: spoken[prompt.text] for prompt in prompts} if spoken else {},
        num_per_prompt=arguments.videos,
        seed=arguments.seed,
    )

    def make(prompt: str, seed: int) -> "np.ndarray":
        made: Any = pipeline(prompt, seed=seed, output_type="np", **options)
        frames: np.ndarray = made.frames[0]
        return frames

    total = len(prompts) * arguments.videos
    say(f"Making {total} videos of {len(prompts)} prompts in {arguments.out}; Ctrl-C stops, the same command goes on.")
    with progress("exporting") as advance:
        made = export_videos(plan, arguments.out, make, advance)
    say(f"{made} made now, {total - made} were there.")
    result(str(arguments.out))


def vbench_score(arguments: VBenchScoreArguments) -> None:
    """Print the totals.

    Raises:
        UserError: if the results cannot be read or a dimension is missing.
    """
    require_json_target(arguments.json)
    from m4v.evaluation.vbench.dimensions import DIMENSIONS, FAST_FOUR, FAST_SEVEN
    from m4v.evaluation.vbench.results import read_results
    from m4v.evaluation.vbench.totals import totals

    found = read_results(arguments.results)
    scores = totals({name: entry.raw for name, entry in found.items()})
    means = {
        name: sum(scores.raw[key] for key in keys) / len(keys)
        for name, keys in (("mean_of_four", FAST_FOUR), ("mean_of_seven", FAST_SEVEN))
    }
    if arguments.json is not None:
        videos = {name: entry.num_videos for name, entry in found.items()}
        write_json(arguments.json, {**scores.to_plain(), **means, "videos": videos})
    if arguments.json == STANDARD_OUTPUT:
        return
    rows = [
        (name, dimension.group, f"{100 * scores.raw[name]:.2f}", f"{100 * scores.normalised[name]:.2f}")
        for name, dimension in DIMENSIONS.items()
    ]
    print_table("VBench, percent", ("dimension", "group", "raw", "normalised"), rows)
    result(f"quality {scores.quality:.2f}  semantic {scores.semantic:.2f}  total {scores.total:.2f}")
    result(
        f"raw means of the paper's fast protocol: four metrics {100 * means['mean_of_four']:.2f}, "
        f"seven {100 * means['mean_of_seven']:.2f}"
    )


def _check(arguments: VBenchExportArguments, prompts: "tuple[SuitePrompt, ...]") -> None:
    from m4v.evaluation.vbench.export import check_completeness

    found = check_completeness(prompts, arguments.out, arguments.videos)
    for name, files in (("empty", found.empty), ("not asked for", found.unexpected)):
        if files:
            say(f"{len(files)} {name}, for example {'; '.join(files[:3])}")
    if not found.is_complete:
        raise UserError(
            f"{arguments.out} lacks {len(found.missing)} of {found.expected} videos"
            + (f", for example {'; '.join(found.missing[:3])}" if found.missing else "")
            + (f"; {len(found.empty)} are empty" if found.empty else "")
            + ". Run the export again, or rename them."
        )
    result(f"complete: {found.expected} videos")


def _lengthened(path: Path, suite: Path) -> dict[str, str]:
    folder = suite if suite.is_dir() else suite.parent
    names = [folder / "prompts" / "all_dimension.txt", folder.parent / "prompts" / "all_dimension.txt"]
    plain = next((name for name in names if name.is_file()), None)
    if plain is None:
        raise UserError(f"There is no prompts/all_dimension.txt beside {suite}; --lengthened needs it for the order.")
    lines = [_lines(plain), _lines(path)]
    if len(lines[0]) != len(lines[1]):
        raise UserError(f"{path} has {len(lines[1])} lines, {plain} {len(lines[0])}; expected one per prompt.")
    return dict(zip(*lines, strict=True))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error


def _options(arguments: VBenchExportArguments) -> dict[str, Any]:
    named = {
        "num_frames": arguments.frames,
        "height": arguments.height,
        "width": arguments.width,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
    }
    return {name: value for name, value in named.items() if value is not None}


def _facts(model: str, pipeline: "AnyPipeline", options: dict[str, Any]) -> dict[str, Any]:
    from m4v.checkpoints.resolve import resolve_model
    from m4v.checkpoints.weights import file_sha256
    from m4v.core.config_io import to_plain

    folder = resolve_model(model)
    weights = {str(file.relative_to(folder)): file_sha256(file) for file in sorted(folder.rglob("*.safetensors"))}
    return {
        "model": Path(model).name,
        "weights_sha256": weights,
        "defaults": to_plain(pipeline.generation_defaults),
        "changes": options,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
