"""`m4v bench`: mixer, networks and whole videos against attention, side by side on this device."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.analysis.bench.config import BRIEF_SECONDS, PART_SECONDS, PARTS, BenchOptions, PartName
from m4v.cli.console import result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.output_paths import require_writable
from m4v.cli.verb import Action
from m4v.core.errors import UserError
from m4v.core.files import atomic_path

if TYPE_CHECKING:
    import torch

_RESULTS = Path("benchmarks") / "results"


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure speed and memory against attention, and write JSON, tables and a plot.

    Nothing is timed before it has been checked. Parts of several runs on one device are joined in one file.

    Attributes:
        what: A part (correctness, mixer, denoiser, generate, wan, train), all of them, or report: write tables and plot
            again from --json FILE, without measuring.
        part: Parts to measure instead, as --part correctness mixer.
        device: Where to measure.
        size: paper: the released sizes, on a GPU (about 40 GiB); laptop: what a CPU does in minutes; tiny: a rehearsal
            in seconds. auto is paper on CUDA, laptop elsewhere.
        brief: Measure only what the aims need, all in about seven minutes; networks that parts share are made once.
        seconds: Time of each part, by default 510; of everything together with --brief, by default 400. What does not
            fit is left out, and named.
        compile: Generate whole videos with compiled networks; --no-compile takes them as m4v generate does by default.
        mamba_ssm: Folder with mamba-ssm's source, whose Triton files are compared with. Default: the installed package.
        json: File for the measurements, or - for standard output; parts that are there already are kept.
            Default: bench-DEVICE.json in --out.
        out: Folder for tables (.md) and plot (.png). Default: that of --json, or benchmarks/results if it is here, or
            outputs.
    """

    what: Annotated[
        Literal["all", "correctness", "mixer", "denoiser", "generate", "wan", "train", "report"], tyro.conf.Positional
    ] = "all"
    part: tuple[Literal["correctness", "mixer", "denoiser", "generate", "wan", "train"], ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    size: Literal["auto", "paper", "laptop", "tiny"] = "auto"
    brief: bool = False
    seconds: float | None = None
    compile: bool = True
    mamba_ssm: Path | None = None
    json: str | None = None
    out: Path | None = None


def run(arguments: BenchArguments) -> None:
    """Measure and report.

    Raises:
        UserError: for input that cannot be used.
    """
    require_json_target(arguments.json)
    parts = _parts(arguments)
    if arguments.what == "report":
        _report_again(arguments)
        return
    from m4v.analysis.bench.machine import device_name
    from m4v.analysis.bench.run import read_document, run_parts
    from m4v.cli.devices import use_all_cores
    from m4v.core.devices import choose_device

    device = choose_device(arguments.device)
    use_all_cores()
    options = _options(arguments, device)
    parts = _possible(parts, device, options, is_named=bool(arguments.part) or arguments.what != "all")
    files = _Files(arguments, device_name(device), options.size)
    if files.json is not None:
        require_writable(files.json, "--json")
    earlier = read_document(files.json) if files.json is not None and files.json.exists() else None

    measured: dict[str, Any] = {}

    def keep(document: dict[str, Any]) -> None:
        measured.update(document)
        if files.json is not None:
            write_json(str(files.json), document)

    say(f"Measuring {', '.join(parts)} at size {options.size} on {device_name(device)}{_duration(options, len(parts))}")
    try:
        document = run_parts(parts, device, options, earlier, say, keep)
    except KeyboardInterrupt:
        if files.json is not None and measured:
            _write_report(measured, files)
        raise
    if arguments.json == STANDARD_OUTPUT:
        write_json(STANDARD_OUTPUT, document)
        return
    _write_report(document, files)


def _parts(arguments: BenchArguments) -> list[PartName]:
    if arguments.part:
        if arguments.what != "all":
            raise UserError(f"Both {arguments.what} and --part are given; use one of them.")
        return [name for name in PARTS if name in arguments.part]
    return [name for name in PARTS if arguments.what in ("all", name)]


def _options(arguments: BenchArguments, device: "torch.device") -> BenchOptions:
    size = arguments.size
    if size == "auto":
        size = "paper" if device.type == "cuda" else "laptop"
    if size == "paper" and device.type != "cuda":
        raise UserError("--size paper needs a CUDA GPU; use laptop, or tiny for a rehearsal.")
    default = BRIEF_SECONDS if arguments.brief else PART_SECONDS
    seconds = default if arguments.seconds is None else arguments.seconds
    return BenchOptions(
        size=size,
        seconds=seconds,
        is_brief=arguments.brief,
        compiles=arguments.compile,
        mamba_ssm=arguments.mamba_ssm,
    )


def _duration(options: BenchOptions, num_parts: int) -> str:
    """How long it will take at most, about; rehearsals take seconds."""
    if options.size == "tiny":
        return ""
    minutes = options.seconds * (1 if options.is_brief else num_parts) / 60
    advice = "" if options.is_brief else " (--brief or --seconds shortens it)"
    return f", in up to {max(minutes, 1):.0f} minutes{advice}; what is done is kept if you stop it"


def _possible(parts: list[PartName], device: "torch.device", options: BenchOptions, is_named: bool) -> list[PartName]:
    """Leave out, aloud, what only a GPU can measure, unless it was asked for by name."""
    size = options.size
    if options.is_brief:
        # Every part checks what it times, so that a brief run does without the part that only checks.
        return parts if is_named else list(options.shares)
    needs_gpu = [part for part in parts if part in ("denoiser", "wan", "train")]
    if device.type == "cuda" or size == "tiny" or is_named or not needs_gpu:
        return parts
    say(f"Left out: {', '.join(needs_gpu)}, which need a CUDA GPU (--size tiny rehearses them here)")
    return [part for part in parts if part not in needs_gpu]


class _Files:
    """Where measurements, tables and plot go."""

    def __init__(self, arguments: BenchArguments, device: str, size: str) -> None:
        name = "bench-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:60]
        name += "-tiny" if size == "tiny" else ""
        folder = _RESULTS if _RESULTS.is_dir() else Path("outputs")
        self.json: Path | None = None
        if arguments.json not in (None, STANDARD_OUTPUT):
            self.json = Path(str(arguments.json))
            name, folder = self.json.stem, self.json.parent
        folder = arguments.out or folder
        if arguments.json is None:
            self.json = folder / f"{name}.json"
        self.tables = folder / f"{name}.md"
        self.plot = folder / f"{name}.png"


def _report_again(arguments: BenchArguments) -> None:
    from m4v.analysis.bench.run import read_document

    if arguments.json in (None, STANDARD_OUTPUT):
        raise UserError("m4v bench report needs the file of an earlier run: --json FILE.")
    _write_report(read_document(Path(str(arguments.json))), _Files(arguments, "", ""))


def _write_report(document: dict[str, Any], files: _Files) -> None:
    from m4v.analysis.bench.plot import draw, why_no_plot
    from m4v.analysis.bench.report import markdown

    lines = markdown(document)
    for line in lines:
        result(line)
    with atomic_path(files.tables) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result("")
    if files.json is not None:
        result(str(files.json))
    result(str(files.tables))
    missing = why_no_plot()
    if missing is None:
        draw(document, files.plot)
        result(str(files.plot))
    else:
        say(f"Note: {missing}")


VERB = Action(BenchArguments, run)
