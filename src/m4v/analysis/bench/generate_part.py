"""`--part generate`: whole videos, summed from one timed evaluation per level and unit, checked by full runs."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from m4v.analysis.bench.clock import Contender, free_memory
from m4v.analysis.bench.networks import build_network, compiled_or_eager
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import check_against_reference, require_correct, section_inputs
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.variants import NOTE, variant
from m4v.analysis.bench.video_loop import VideoSetup
from m4v.analysis.live_memory import LiveTensors
from m4v.analysis.subjects import SUBJECTS
from m4v.analysis.tokens import unit_layout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from m4v.pipelines.unit_loop import LoopSettings

_VARIANTS = ("attention", "m4v", "dual_mamba")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a size measures.

    Attributes:
        setup: Network sizes and steps.
        units: Units that are timed, rising; between them the time is a line.
        frames: Whole videos: frames and units.
        checked_units: Units of the full run.
        long_ratio: Units of the fixed-window comparison: a video and one ten times as long; None to leave it out.
    """

    setup: VideoSetup
    units: tuple[int, ...]
    frames: Mapping[int, int]
    checked_units: int
    long_ratio: tuple[int, int] | None = None


def plan_for(session: Session) -> Plan:
    """Sizes: the paper's 768p videos on accelerators, the toybox on CPUs."""
    if session.device.type == "cuda" and session.options.size == "paper":
        setup = _setup(session, "pyramid-2b", LatentShape(num_units=1, height=96, width=160), 128, (20,) * 3, (10,) * 3)
        units = (*range(31), 45, 60, 90, 120)
        return Plan(setup=setup, units=units, frames={57: 8, 121: 16, 241: 31, 481: 61, 961: 121}, checked_units=8)
    if session.is_tiny:
        setup = _setup(session, "debug", LatentShape(num_units=1, height=4, width=4), 8, (2,) * 3, (1,) * 3)
        setup = replace(setup, config=replace(setup.config, attention_head_dim=32, rope_axes_dims=(8, 12, 12)))
        return Plan(setup=setup, units=(0, 1, 2), frames={9: 3}, checked_units=2, long_ratio=(1, 3))
    subject = SUBJECTS["toybox-xs"]
    defaults, step = subject.defaults, subject.compression
    latent = LatentShape(num_units=1, height=defaults.height // step.space, width=defaults.width // step.space)
    setup = _setup(session, "toybox-xs", latent, defaults.max_text_length, (4,) * 3, (3,) * 3)
    frames = {count: (count - 1) // step.time + 1 for count in (17, 57, 121, 241)}
    units = (*range(6), 10, 15, 20, 30, 40, 60)
    return Plan(setup=setup, units=units, frames=frames, checked_units=frames[17], long_ratio=(5, 50))


def _setup(
    session: Session, name: str, latent: LatentShape, num_text: int, first: tuple[int, ...], later: tuple[int, ...]
) -> VideoSetup:
    return VideoSetup(
        config=PRESETS[name],
        latent=latent,
        num_text_tokens=num_text,
        settings=LoopSettings(first_steps=first, later_steps=later),
        device=session.device,
        dtype=session.dtype,
    )


def measure(session: Session) -> PartReport:
    """Time evaluations, sum them, run the loop once."""
    report = PartReport(notes=[NOTE, *_NOTES])
    plan = plan_for(session)
    networks: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name in _VARIANTS:
        session.say(f"generate: making {name} ({session.budget.spent:.0f} s)")
        with session.clock().reporting(problems, name):
            network = build_network(variant(plan.setup.config, name), session.device, session.dtype)
            if session.device.type == "cuda":
                obstacle = compiled_or_eager(network, plan.setup.evaluation(network, 0, 0, None))
                report.notes += [] if obstacle is None else [f"{name} is not compiled: {obstacle}"]
            networks[name] = network
    if plan.long_ratio is not None and "m4v" in networks:
        _fixed_window(session, report, plan, networks["m4v"], plan.long_ratio)
    costs = _evaluations(session, report, plan, networks, problems)
    for frames, num_units in plan.frames.items():
        report.rows.append(_video_row(plan, frames, num_units, costs, problems))
    _full_runs(session, report, plan, networks, costs)
    free_memory()
    return report


_NOTES = [
    "Whole videos in seconds without text encoder and VAE: one timed evaluation per level and unit, with guidance, "
    "called as the generation loop calls it (device graphs on short sequences), times the steps: 20 per level of the "
    "first unit and 10 of the others at paper size. Between units that were timed, time is taken as a line; the rows "
    "of evaluations say which were. Solver, history and noise are in the full run and not in the sum: deviation.",
]


def _evaluations(
    session: Session, report: PartReport, plan: Plan, networks: dict[str, Any], problems: dict[str, str]
) -> dict[str, dict[tuple[int, int], float]]:
    """Milliseconds by network, unit and level; ends first, so that a cut budget still brackets everything."""
    costs: dict[str, dict[tuple[int, int], float]] = {name: {} for name in networks}
    reserve = 0.0 if session.is_tiny else 0.3 * session.options.seconds
    for unit in _ends_first(plan.units):
        if session.budget.left < reserve:
            report.left_out.append(f"evaluations of unit {unit}: taken from its neighbours")
            continue
        session.say(f"generate: evaluations of unit {unit} ({session.budget.spent:.0f} s)")
        for level in range(plan.setup.config.num_levels):
            row = _evaluation_row(session, report, plan, networks, problems, unit, level)
            report.rows.append(row)
            for name, value in row.ms.items():
                costs[name][unit, level] = value
    return costs


def _evaluation_row(
    session: Session,
    report: PartReport,
    plan: Plan,
    networks: dict[str, Any],
    failed: dict[str, str],
    unit: int,
    level: int,
) -> Row:
    clock, setup = session.clock(3, 1.0), plan.setup
    problems = dict(failed)
    layout = unit_layout(setup.config, setup.latent, unit, level, setup.num_text_tokens)
    scan_problem: dict[str, str] = {}
    with clock.reporting(scan_problem, "scan"):
        heads, width = setup.config.num_attention_heads, setup.config.attention_head_dim
        inputs = section_inputs(layout, heads, width, session.device, session.dtype)
        errors = check_against_reference(inputs, with_gradients=False)
        require_correct("the scan", errors, session.dtype)
        report.checks["scan"] = max(errors["forward"], report.checks.get("scan", 0.0))
    contenders, opened = [], []
    for name, network in networks.items():
        if scan_problem and name != "attention":
            problems[name] = scan_problem["scan"]
        elif name not in problems:
            with clock.reporting(problems, name):
                graphs = setup.graphs(network)
                run = setup.evaluation(network, unit, level, graphs)
                for _ in range(3 if graphs is not None else 1):  # as usual, recorded, replayed
                    run()
                opened.append(graphs)
                contenders.append(Contender(name=name, calls=[run]))
    times = clock.compare(contenders)
    for graphs in opened:
        if graphs is not None:
            graphs.close()
    setting = {
        "kind": "evaluation",
        "unit": unit,
        "level": level,
        "length": layout.num_text_tokens + layout.num_video_tokens,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "device": setup.device.type,
    }
    return Row(setting=setting, ms=times.ms, problems=problems | times.problems)


def _ends_first(units: Sequence[int]) -> list[int]:
    """Order in which every prefix is spread over the range."""
    ordered = [units[0], units[-1]]
    stack = [(0, len(units) - 1)]
    while stack:
        low, high = stack.pop(0)
        middle = (low + high) // 2
        if middle not in (low, high):
            ordered.append(units[middle])
            stack += [(low, middle), (middle, high)]
    return list(dict.fromkeys(ordered))


def interpolated(times: Mapping[int, float], unit: int) -> float:
    """Time at a unit, on the line between the measured units around it; beyond them, that of the nearest two."""
    known = sorted(times)
    if unit in times or len(known) == 1:
        return times.get(unit, times[known[0]])
    right = min(max(bisect.bisect(known, unit), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    return times[low] + (times[high] - times[low]) * (unit - low) / (high - low)


def video_seconds(costs: Mapping[tuple[int, int], float], settings: LoopSettings, num_units: int) -> float:
    """Sum of evaluations times steps.

    Args:
        costs: Milliseconds by unit and level.
    """
    total = 0.0
    for level in range(len(settings.first_steps)):
        times = {unit: value for (unit, at), value in costs.items() if at == level}
        later = {unit: value for unit, value in times.items() if unit > 0} or times
        for unit in range(num_units):
            total += settings.steps_of(unit)[level] * interpolated(times if unit == 0 else later, unit)
    return total / 1e3


def _video_row(
    plan: Plan,
    frames: int,
    num_units: int,
    costs: Mapping[str, Mapping[tuple[int, int], float]],
    problems: Mapping[str, str],
) -> Row:
    seconds = {
        name: video_seconds(table, plan.setup.settings, num_units)
        for name, table in costs.items()
        if len({level for _, level in table}) == plan.setup.config.num_levels
    }
    figures: dict[str, float] = {f"{name}_seconds": value for name, value in seconds.items()}
    for name, value in seconds.items():
        if name != "attention" and "attention" in seconds:
            figures[f"speedup_{name}_over_attention"] = seconds["attention"] / value
    setting = {
        "kind": "video",
        "frames": frames,
        "units": num_units,
        "dtype": str(plan.setup.dtype).removeprefix("torch."),
        "device": plan.setup.device.type,
    }
    return Row(setting=setting, figures=figures, problems=problems)


def _full_runs(
    session: Session,
    report: PartReport,
    plan: Plan,
    networks: dict[str, Any],
    costs: Mapping[str, Mapping[tuple[int, int], float]],
) -> None:
    figures: dict[str, float] = {}
    problems: dict[str, str] = {}
    for name, network in networks.items():
        if session.budget.left < 20 and not session.is_tiny:
            report.left_out.append(f"full run of {name}: no time left")
            continue
        session.say(f"generate: full run of {name} ({session.budget.spent:.0f} s)")
        with session.clock().reporting(problems, name):
            plan.setup.generate(network, 1)  # everything is prepared, and graphs have their pool
            seconds = plan.setup.generate(network, plan.checked_units)
            figures[f"{name}_seconds"] = seconds
            summed = video_seconds(costs[name], plan.setup.settings, plan.checked_units)
            figures[f"{name}_deviation"] = seconds / summed - 1
    setting = {"kind": "full run", "units": plan.checked_units, "dtype": str(plan.setup.dtype).removeprefix("torch.")}
    report.rows.append(Row(setting=setting, figures=figures, problems=problems))


def _fixed_window(session: Session, report: PartReport, plan: Plan, network: Any, lengths: tuple[int, int]) -> None:
    """Ten times the units with the same window of history: time and peak of tensors alive."""
    short, long = lengths
    setup = replace(plan.setup, settings=replace(plan.setup.settings, history_window=short))
    session.say(f"generate: {short} and {long} units in a window of {short} ({session.budget.spent:.0f} s)")
    problems: dict[str, str] = {}
    figures: dict[str, float] = {}
    with session.clock().reporting(problems, "m4v"), torch.no_grad():
        setup.generate(network, short)
        before = setup.generate(network, short)
        seconds = {long: setup.generate(network, long)}
        # Around the long video, so that a machine that changes its speed does so for both.
        seconds[short] = (before + setup.generate(network, short)) / 2
        peaks = {}
        quick = replace(setup, settings=replace(setup.settings, first_steps=(1,) * 3, later_steps=(1,) * 3))
        for count in (short, long):
            with LiveTensors() as live:
                live.ignore(list(network.parameters()))
                quick.generate(network, count)
            peaks[count] = live.peak / 2**20
        figures = {
            "short_seconds": seconds[short],
            "long_seconds": seconds[long],
            "time_ratio": seconds[long] / seconds[short],
            "memory_ratio": peaks[long] / peaks[short],
            "length_ratio": long / short,
        }
    setting = {"kind": "fixed window", "window": short, "units": long, "device": setup.device.type}
    report.rows.append(Row(setting=setting, figures=figures, problems=problems))
