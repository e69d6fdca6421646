"""`--part denoiser`: time of one evaluation of the network by pyramid level and unit, for every mixer plan."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from m4v.analysis.bench.clock import Contender, free_memory
from m4v.analysis.bench.networks import PyramidCall, build_network, compiled_or_eager, pyramid_call, steady_call
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import (
    check_against_reference,
    relative_error,
    require_correct,
    section_inputs,
)
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.variants import BRIEF, MAIN, NOTE, TABLE_4, bounds, measured_costs, speedups, variant
from m4v.analysis.tokens import unit_layout
from m4v.core.errors import UserError
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.pipelines.graph_replay import MAX_GRAPH_TOKENS

BATCH = 2
_PAPER_LATENT = LatentShape(num_units=31, height=96, width=160)
_CASES = ((30, 2), (30, 1), (30, 0), (15, 2), (7, 2), (0, 2), (0, 1), (0, 0), (15, 1), (7, 1), (15, 0), (7, 0))
"""Unit and level, by importance."""
_TEXT_TOKENS = 128
_COMPILED_ERROR = 0.1
"""A compiled network in bfloat16 rounds elsewhere; more than this is another network."""


def network_base(session: Session) -> tuple[DenoiserConfig, LatentShape, int]:
    """Network, latent size and text length of a size.

    Raises:
        UserError: if the device cannot take it.
    """
    if session.is_tiny:
        config = replace(PRESETS["debug"], attention_head_dim=32, rope_axes_dims=(8, 12, 12))
        return config, LatentShape(num_units=3, height=8, width=8), 8
    if session.device.type != "cuda":
        raise UserError(
            "This part of the benchmark measures the 2B network and needs a CUDA GPU with about 40 GiB; "
            "here, --size tiny rehearses it, and --part mixer and generate measure what a CPU can do."
        )
    return PRESETS["pyramid-2b"], _PAPER_LATENT, _TEXT_TOKENS


def measure(session: Session) -> PartReport:
    """Measure eagerly, then compiled, then the plans of Table 4."""
    report = session.report
    report.notes += [NOTE, *_NOTES]
    base, latent, num_text = network_base(session)
    cases = ((2, 2), (0, 0)) if session.is_tiny else _CASES
    bench = _Networks(session, report, base, latent, num_text)
    if session.is_brief:
        bench.open(BRIEF)
        bench.remember(cases[:1])
        bench.compile(*cases[0])
        bench.run(cases[:3], is_compiled=not session.is_tiny)
        return report
    bench.open(MAIN)
    # Eagerly in short: by the last unit everything shows, and time goes to the compiled networks.
    bench.run(cases[:1] if session.is_tiny else [*cases[:3], *cases[5:8]], is_compiled=False)
    bench.compile(*cases[0])
    bench.run(cases, is_compiled=not session.is_tiny, reserve=0 if session.is_tiny else 90)
    bench.close()
    bench.open(("attention", *TABLE_4))
    bench.compile(*cases[0])
    bench.run(cases[:1] if session.is_tiny else [(30, 2), (30, 1), (30, 0), (0, 2)], is_compiled=not session.is_tiny)
    bench.close()
    return report


_NOTES = [
    "One evaluation with both prompts of guidance in one batch of 2, every text token real, random weights, as a step "
    "after a level's first: what depends on sizes and prompts alone is recalled. *_graph_ms: replayed as a device "
    "graph, as the pipeline does on short sequences. bound_*: speed-up if nothing took time but matrix products at "
    "their measured rate, attention as measured alone, and scans at the floor of their bytes.",
]


class _Networks:
    """Networks that are alive, and what is measured of them."""

    def __init__(
        self, session: Session, report: PartReport, base: DenoiserConfig, latent: LatentShape, num_text: int
    ) -> None:
        self.session = session
        self.report = report
        self.base = base
        self.latent = latent
        self.num_text = num_text
        self.networks = session.networks
        self.problems: dict[str, str] = {}
        self.expected: dict[tuple[str, int, int], Tensor] = {}

    def open(self, names: Sequence[str]) -> None:
        """Make networks; one that cannot be made is reported in every row."""
        for name in names:
            self.session.say(f"denoiser: making {name} ({self.session.budget.spent:.0f} s)")
            with self.session.clock().reporting(self.problems, name):
                config = variant(self.base, name)
                self.networks[name] = build_network(config, self.session.device, self.session.dtype)

    def close(self) -> None:
        """Give memory back."""
        self.networks.clear()
        self.problems.clear()
        self.expected.clear()
        free_memory()

    def remember(self, cases: Sequence[tuple[int, int]]) -> None:
        """Evaluate eagerly what compiled networks are checked with."""
        for unit, level in cases:
            layout = unit_layout(self.base, self.latent, unit, level, self.num_text)
            call = self._call(layout)
            for name, network in self.networks.items():
                with self.session.clock().reporting(self.problems, name):
                    self._check_compiled((name, unit, level), call, steady_call(network, call), is_compiled=False)

    def compile(self, unit: int, level: int) -> None:
        """Compile all and try them on a unit and level, which takes a while. Rehearsals do without."""
        if self.session.is_tiny:
            return
        call = self._call(unit_layout(self.base, self.latent, unit, level, self.num_text))
        for name, network in list(self.networks.items()):
            self.session.say(f"denoiser: compiling {name} ({self.session.budget.spent:.0f} s)")
            if (obstacle := compiled_or_eager(network, steady_call(network, call))) is not None:
                self.problems[name] = f"not compiled: {obstacle}"
                del self.networks[name]

    def run(self, cases: Sequence[tuple[int, int]], *, is_compiled: bool, reserve: float = 0.0) -> None:
        """Measure all networks at some units and levels, keeping `reserve` seconds for what follows."""
        for number, (unit, level) in enumerate(cases):
            label = f"unit {unit}, level {level}, {'compiled' if is_compiled else 'eager'}"
            is_main = self.session.is_brief and number == 0  # however long compiling took
            if not is_main and not self.session.has_time(reserve + (6 if self.session.is_brief else 15)):
                self.report.left_out.append(f"{label}: {', '.join(self.networks)}: no time left")
                continue
            self.session.say(f"denoiser: {label} ({self.session.budget.spent:.0f} s)")
            self.report.add(self._row(unit, level, is_compiled))

    def _row(self, unit: int, level: int, is_compiled: bool) -> Row:
        session = self.session
        clock = session.clock(7, 2.0)
        layout = unit_layout(self.base, self.latent, unit, level, self.num_text)
        problems = dict(self.problems)
        scan_problem: dict[str, str] = {}
        with clock.reporting(scan_problem, "scan"):
            self._check_scan(layout)
        call = self._call(layout)
        contenders = []
        for name, network in self.networks.items():
            if name in problems:
                continue
            if scan_problem and not name.startswith("attention"):
                problems[name] = scan_problem["scan"]
                continue
            with clock.reporting(problems, name):
                run = steady_call(network, call)
                self._check_compiled((name, unit, level), call, run, is_compiled)
                contenders.append(Contender(name=name, calls=[run]))
        times = clock.compare(contenders)
        problems |= times.problems
        peaks = clock.peaks_mib(contenders, problems)
        ms = dict(times.ms)
        tokens = layout.num_text_tokens + layout.num_video_tokens
        if clock.is_cuda and tokens * BATCH <= MAX_GRAPH_TOKENS:
            recorded = []
            for contender in contenders:
                if contender.name in times.ms:
                    with clock.reporting(problems, f"{contender.name} (graph)"), torch.no_grad():
                        recorded.append(clock.record(contender))
            replayed = clock.compare(recorded)
            ms |= {f"{name}_graph": value for name, value in replayed.ms.items()}
        setting = {
            "unit": unit,
            "level": level,
            "length": tokens,
            "batch": BATCH,
            "compiled": is_compiled,
            "dtype": str(session.dtype).removeprefix("torch."),
            "device": session.device.type,
        }
        figures = speedups(times.ms) | bounds(
            self.base, layout, tuple(self.networks), measured_costs(session, self.base, layout, BATCH)
        )
        return Row(setting=setting, ms=ms, peak_mib=peaks, figures=figures, problems=problems)

    def _call(self, layout: SequenceLayout) -> PyramidCall:
        session = self.session
        return pyramid_call(self.base, layout, batch_size=BATCH, dtype=session.dtype, device=session.device)

    def _check_scan(self, layout: SequenceLayout) -> None:
        """The scan section on this very layout, by the backend that the networks will use."""
        inputs = section_inputs(
            layout,
            self.base.num_attention_heads,
            self.base.attention_head_dim,
            self.session.device,
            self.session.dtype,
        )
        errors = check_against_reference(inputs, with_gradients=False)
        require_correct("the scan", errors, self.session.dtype)
        self.report.checks["scan"] = max(errors["forward"], self.report.checks.get("scan", 0.0))

    def _check_compiled(self, key: tuple[str, int, int], call: Any, run: Any, is_compiled: bool) -> None:
        """Compiled networks must give what they gave before; inputs are drawn alike."""
        torch.manual_seed(0)
        for clip in call.clips:
            clip.latents.normal_()
        call.text.tokens.normal_()
        call.text.pooled.normal_()
        found = run()
        if not is_compiled:
            self.expected[key] = found.cpu()
        elif key in self.expected:
            error = relative_error(found, self.expected[key])
            if not error <= _COMPILED_ERROR:
                raise ArithmeticError(f"not timed: compiled, its result moves by {error:.1e}")
            self.report.checks["compiled"] = max(error, self.report.checks.get("compiled", 0.0))
