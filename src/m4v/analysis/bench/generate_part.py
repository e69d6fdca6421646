"""`--part generate`: whole videos, summed from one timed evaluation per level and unit, checked by full runs."""

import bisect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from m4v.analysis.bench.clock import Contender, free_memory
from m4v.analysis.bench.networks import build_network, compiled_or_eager
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import check_against_reference, require_correct, section_inputs
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.variants import BRIEF, NOTE, measured_costs, variant
from m4v.analysis.bench.video_loop import VideoSetup
from m4v.analysis.live_memory import LiveTensors
from m4v.analysis.subjects import SUBJECTS
from m4v.analysis.tokens import unit_layout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from m4v.pipelines.unit_loop import LoopSettings

_FULL_RUN_SECONDS = {"m4v": 30, "attention": 40, "dual_mamba": 25}
"""Left before a full run is begun at paper size."""


Costs = dict[str, dict[tuple[int, int], float]]
"""Milliseconds by network, unit and level."""


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
        if session.is_brief:
            return Plan(setup=setup, units=(0, 1, 7, 15, 30), frames={57: 8, 121: 16, 241: 31}, checked_units=8)
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
    report = session.report
    report.notes += [NOTE, *_NOTES]
    plan = plan_for(session)
    networks = session.networks
    problems: dict[str, str] = {}
    for name in BRIEF:
        if name in networks:  # compiled already, by the part before
            continue
        session.say(f"generate: making {name} ({session.budget.spent:.0f} s)")
        with session.clock().reporting(problems, name):
            network = build_network(variant(plan.setup.config, name), session.device, session.dtype)
            if session.device.type == "cuda" and session.options.compiles:
                obstacle = compiled_or_eager(network, plan.setup.evaluation(network, 0, 0, None))
                report.notes += [] if obstacle is None else [f"{name} is not compiled: {obstacle}"]
            networks[name] = network
    if plan.long_ratio is not None and "m4v" in networks:
        _fixed_window(session, report, plan, networks["m4v"], plan.long_ratio)
    costs, least = _evaluations(session, report, plan, networks, problems)
    for frames, num_units in plan.frames.items():
        report.add(_video_row(session, plan, frames, num_units, costs, least, problems))
    _full_runs(session, report, plan, networks, costs)
    if session.options.size == "laptop":
        _default_clip(session, report)
    free_memory()
    return report


_NOTES = [
    "Whole videos in seconds without text encoder and VAE: one timed evaluation per level and unit, with guidance, "
    "called as the generation loop calls it (device graphs on short sequences), times the steps: 20 per level of the "
    "first unit and 10 of the others at paper size. bound_*: the same sum of least times, least_*_ms: matrix products "
    "at their measured rate, attention as measured alone, scans at the floor of their bytes. Between units that were "
    "timed, time is taken as a line; the rows of evaluations say which were. Solver, history and noise are in the full "
    "run and not in the sum: deviation.",
]


def _evaluations(
    session: Session, report: PartReport, plan: Plan, networks: dict[str, Any], problems: dict[str, str]
) -> tuple[Costs, Costs]:
    """Milliseconds by network, unit and level, measured and at least; ends first, so that a cut budget still brackets
    everything.
    """
    costs: Costs = {name: {} for name in networks}
    least: Costs = {name: {} for name in networks}
    reserve = 0.1 if session.is_brief else 0.3
    for unit in _ends_first(plan.units):
        if not session.has_time(reserve * session.budget.seconds):
            report.left_out.append(f"evaluations of unit {unit}: taken from its neighbours")
            continue
        session.say(f"generate: evaluations of unit {unit} ({session.budget.spent:.0f} s)")
        for level in range(plan.setup.config.num_levels):
            row = _evaluation_row(session, report, plan, networks, problems, unit, level)
            report.add(row)
            for name, value in row.ms.items():
                costs[name][unit, level] = value
                least[name][unit, level] = float(row.figures[f"least_{name}_ms"] or 0)
    return costs, least


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
        "compiled": _is_compiled(session),
        "dtype": str(setup.dtype).removeprefix("torch."),
        "device": setup.device.type,
    }
    floors = measured_costs(session, setup.config, layout, batch_size=2)
    figures = {f"least_{name}_ms": floors.network_ms(variant(setup.config, name), layout) for name in times.ms}
    return Row(setting=setting, ms=times.ms, figures=figures, problems=problems | times.problems)


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


def _is_compiled(session: Session) -> bool:
    return session.device.type == "cuda" and session.options.compiles


def _video_row(
    session: Session,
    plan: Plan,
    frames: int,
    num_units: int,
    costs: Costs,
    least: Costs,
    problems: Mapping[str, str],
) -> Row:
    def summed(tables: Costs) -> dict[str, float]:
        return {
            name: video_seconds(table, plan.setup.settings, num_units)
            for name, table in tables.items()
            if len({level for _, level in table}) == plan.setup.config.num_levels
        }

    seconds, bounds = summed(costs), summed(least)
    figures: dict[str, float] = {f"{name}_seconds": value for name, value in seconds.items()}
    for name, value in seconds.items():
        if name != "attention" and "attention" in seconds:
            figures[f"speedup_{name}_over_attention"] = seconds["attention"] / value
            figures[f"bound_{name}"] = bounds["attention"] / bounds[name]
    setting = {
        "kind": "video",
        "frames": frames,
        "units": num_units,
        "compiled": _is_compiled(session),
        "dtype": str(plan.setup.dtype).removeprefix("torch."),
        "device": plan.setup.device.type,
    }
    return Row(setting=setting, figures=figures, problems=problems)


def _full_runs(
    session: Session,
    report: PartReport,
    plan: Plan,
    networks: dict[str, Any],
    costs: Costs,
) -> None:
    figures: dict[str, float] = {}
    problems: dict[str, str] = {}
    for name, seconds_needed in _FULL_RUN_SECONDS.items():
        if name not in networks:
            continue
        if not session.has_time(seconds_needed if session.options.size == "paper" else 20):
            report.left_out.append(f"full run of {name}: no time left")
            continue
        session.say(f"generate: full run of {name} ({session.budget.spent:.0f} s)")
        with session.clock().reporting(problems, name):
            plan.setup.generate(networks[name], 1)  # everything is prepared, and graphs have their pool
            seconds = plan.setup.generate(networks[name], plan.checked_units)
            figures[f"{name}_seconds"] = seconds
            summed = video_seconds(costs[name], plan.setup.settings, plan.checked_units)
            figures[f"{name}_deviation"] = seconds / summed - 1
    setting = {"kind": "full run", "units": plan.checked_units, "dtype": str(plan.setup.dtype).removeprefix("torch.")}
    report.add(Row(setting=setting, figures=figures, problems=problems))


def _default_clip(session: Session, report: PartReport) -> None:
    """What `m4v generate` does after loading: a clip of the bundled model at its defaults, text and frames included."""
    from m4v.checkpoints.bundled import default_bundled_model
    from m4v.pipelines.m4v_pipeline import M4VPipeline

    session.say(f"generate: default clip of the bundled model ({session.budget.spent:.0f} s)")
    problems: dict[str, str] = {}
    ms: dict[str, float] = {}
    model = ""
    with session.clock().reporting(problems, "m4v"):
        model = default_bundled_model()
        pipe = M4VPipeline.from_pretrained(model).to(session.device)
        pipe.set_progress_bar_config(disable=True)

        def generate() -> Any:
            return pipe("a red ball jumps on the grass", generator=torch.Generator().manual_seed(0))

        # Without a call before: what a first clip costs is what its user waits for.
        begin = time.perf_counter()
        generate()
        first = 1e3 * (time.perf_counter() - begin)
        ms = {"first": first, "later": session.clock(3, 15.0).median_ms(generate)}
    figures = {"seconds": ms["first"] / 1e3} if ms else {}
    setting = {"kind": "default clip", "model": model, "device": session.device.type}
    report.add(Row(setting=setting, ms=ms, figures=figures, problems=problems))


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
    report.add(Row(setting=setting, figures=figures, problems=problems))
