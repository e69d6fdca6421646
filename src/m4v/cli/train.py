"""`m4v train RECIPE`: any recipe, every field of which is a flag."""

import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from m4v.cli.console import duration, result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.verb import Action
from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.recipes.registry import get_recipe, list_recipes
from m4v.training.config import RunConfig
from m4v.training.progress import OnProgress, Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

_PLAIN_INTERVAL_SECONDS = 30.0
_SETTINGS_FLAG = "--settings"
_SHOWN_VALUES = ("loss", "psnr", "lr")
"""Metrics beside the bar; metrics.jsonl has them all."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a recipe, or go on where its run folder stopped.

    Attributes:
        recipe: The whole configuration; each of its fields is a flag.
        data: Folder of captioned videos to train on, instead of the recipe's own data.
        run: Run folder. Default: runs/RECIPE.
        resume: auto goes on from the newest complete checkpoint of the run folder; never refuses to; or a checkpoint.
        resume_override: Settings that fix shapes or the order of data, such as data.folder, and may differ anyway.
        init_from: Model folder, run folder or bundled name that a new run takes its weights from.
        lora_rank: Train adapters of this rank instead of all weights; short for --lora.rank.
        settings: TOML file with values of recipe fields; flags win over it.
        device: auto, cpu, cuda or mps.
        max_minutes: Stop after this time, resumably.
        max_steps: Stop after this many steps, resumably.
        dry_run: Say what the run would take: tokens, memory, steps, hours, sources, every setting. Nothing is read of
            the data and nothing is written.
        devices: Devices that --dry-run reckons with.
        json: With --dry-run, write the plan as JSON, to a file or, with - or no value, to standard output.
    """

    recipe: Annotated[RunConfig, tyro.conf.arg(name="")]
    data: Path | None = None
    run: Path | None = None
    resume: str = "auto"
    resume_override: tuple[str, ...] = ()
    init_from: str | None = None
    lora_rank: int | None = None
    settings: Path | None = None
    device: str = "auto"
    max_minutes: float | None = None
    max_steps: int | None = None
    dry_run: bool = False
    devices: int = 1
    json: str | None = None


def parse(prog: str, words: list[str]) -> TrainArguments:
    """Read `RECIPE --flags`; the recipe named first supplies every default.

    Raises:
        UserError: if no recipe is named, there is none of that name, or the settings file cannot be used.
    """
    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            result(_overview(prog))
            raise SystemExit(0)
        raise UserError(f"Name a recipe first: {prog} RECIPE ... with one of {', '.join(list_recipes())}.")
    recipe = get_recipe(words[0])
    if path := _settings_file(words):
        recipe = from_plain(RunConfig, _overlay(to_plain(recipe), _read_toml(path)))
    arguments: TrainArguments = tyro.cli(
        TrainArguments,
        prog=f"{prog} {words[0]}",
        args=words[1:],
        default=TrainArguments(recipe=recipe),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    return arguments


def run(arguments: TrainArguments) -> None:
    """Train.

    Raises:
        UserError: if settings, data or folders cannot be used, or training diverges.
    """
    recipe = arguments.recipe
    if arguments.lora_rank is not None:
        recipe = replace(recipe, lora=replace(recipe.lora, rank=arguments.lora_rank))
    if arguments.dry_run:
        _plan(arguments, recipe)
        return
    if arguments.json is not None:
        raise UserError("--json goes with --dry-run; a run writes its numbers to metrics.jsonl.")
    run_folder = arguments.run or Path("runs") / recipe.name
    for flag, value in (("--max-minutes", arguments.max_minutes), ("--max-steps", arguments.max_steps)):
        if value is not None and value <= 0:
            raise UserError(f"{flag} is {value}; expected a number above 0.")
    if arguments.data is not None and not arguments.data.is_dir():
        raise UserError(f"{arguments.data} is not a folder; give --data a folder of videos with captions.")
    say(f"Preparing recipe {recipe.name} in {run_folder} ...")
    from m4v.core.devices import choose_device
    from m4v.training.run import train

    device = choose_device(arguments.device)
    stages = ", ".join(f"{name} {steps} steps" for name, steps in recipe.stages(device.type))
    say(f"Training on {device}: {stages}. Ctrl-C stops it; the same command goes on.")
    with _reporter() as on_progress:
        export = train(
            recipe,
            run_dir=run_folder,
            data=arguments.data,
            resume=arguments.resume,
            init_from=arguments.init_from,
            resume_override=arguments.resume_override,
            device=str(device),
            max_seconds=None if arguments.max_minutes is None else arguments.max_minutes * 60,
            max_steps=arguments.max_steps,
            on_progress=on_progress,
        )
    result(str(export if export.exists() else run_folder))


def _plan(arguments: TrainArguments, recipe: RunConfig) -> None:
    """Print what a run would take."""
    require_json_target(arguments.json)
    if arguments.devices < 1:
        raise UserError(f"--devices is {arguments.devices}; expected 1 or more.")
    from m4v.cli.train_plan import plan_report, plan_training
    from m4v.cli.train_plan_lines import plan_lines
    from m4v.core.devices import choose_device
    from m4v.training.data_config import with_folder
    from m4v.training.run import find_model_folder

    # A plan for an accelerator needs none.
    device = choose_device("auto").type if arguments.device == "auto" else arguments.device.split(":")[0]
    plan = plan_training(
        replace(recipe, data=with_folder(recipe.data, arguments.data)),
        device_type=device,
        num_devices=arguments.devices,
        init_from=None if arguments.init_from is None else find_model_folder(arguments.init_from),
    )
    if arguments.json is not None:
        write_json(arguments.json, plan_report(plan))
    if arguments.json != STANDARD_OUTPUT:
        for line in plan_lines(plan):
            result(line)


@contextmanager
def _reporter() -> Iterator[OnProgress]:
    """Show a bar for every phase on a terminal, and now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _PlainReporter().report
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(progress: Progress) -> None:
            if progress.message:
                bars.console.print(progress.message, markup=False, highlight=False)
            if progress.total:
                if progress.phase not in tasks:
                    tasks[progress.phase] = bars.add_task(progress.phase, rest="")
                bars.update(tasks[progress.phase], total=progress.total, completed=progress.done, rest=_rest(progress))

        yield report


class _PlainReporter:
    """Prints messages at once, and counts at most every half minute, at the end of a phase included."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def report(self, progress: Progress) -> None:
        """Print what is due."""
        if progress.message:
            say(progress.message)
        now = time.monotonic()
        is_end = progress.total > 0 and progress.done == progress.total and not progress.message
        if progress.total and (is_end or now - self.last >= _PLAIN_INTERVAL_SECONDS):
            self.last = now
            say(f"{progress.phase}: {progress.done} of {progress.total} {_rest(progress)}".rstrip())


def _rest(progress: Progress) -> str:
    left = [] if progress.seconds_left is None else [f"{duration(progress.seconds_left)} left"]
    values = [f"{name} {progress.values[name]:.4g}" for name in _SHOWN_VALUES if name in progress.values]
    return ", ".join([*left, *values])


def _overview(prog: str) -> str:
    recipes = list_recipes()
    width = max(map(len, recipes))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in recipes.items())
    return (
        f"usage: {prog} RECIPE [--data DIR] [--run DIR] [--resume auto|never|CHECKPOINT] [--init-from MODEL] ...\n\n"
        f"Train a recipe, or fine-tune a model on a folder of your videos.\n\nrecipes:\n{lines}\n\n"
        f"example:\n  {prog} finetune --data my_videos --init-from toybox-xs --run runs/mine\n\n"
        f"{prog} RECIPE --help lists every setting of a recipe; each is a flag."
    )


def _settings_file(words: list[str]) -> Path | None:
    for number, word in enumerate(words):
        if word == _SETTINGS_FLAG and number + 1 < len(words):
            return Path(words[number + 1])
        if word.startswith(f"{_SETTINGS_FLAG}="):
            return Path(word.removeprefix(f"{_SETTINGS_FLAG}="))
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def _overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        is_table = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if is_table else value
    return merged


VERB = Action(TrainArguments, run, parse)
