"""`--part wan`: one evaluation of Wan2.1-shaped networks, MM-DiM instead of self-attention, at 480p and 720p."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from m4v.analysis.bench.clock import Comparison, Contender, free_memory
from m4v.analysis.bench.networks import build_network, compiled_or_eager, steady_clip_call
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import check_against_reference, require_correct, section_inputs
from m4v.analysis.bench.session import Session
from m4v.analysis.wan_flops import wan_call_flops
from m4v.core.errors import UserError
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.wan_config import PRESETS, WanConfig

_PLANS = {"attention": "attention-only", "m4v": "full"}
_TEXT_TOKENS = 512


@dataclass(frozen=True)
class Case:
    """One network at one video size.

    Attributes:
        grid: Token frames, rows and columns.
        layers: Numbers of layers that are measured; two of them are drawn out to the network's own number.
        is_compiled: Whether blocks are compiled.
    """

    name: str
    size: str
    config: WanConfig
    grid: tuple[int, int, int]
    layers: tuple[int, ...]
    is_compiled: bool = True


def cases(session: Session) -> list[Case]:
    """By importance.

    Raises:
        UserError: if the device cannot take them.
    """
    if session.is_tiny:
        config = replace(PRESETS["wan-debug"], attention_head_dim=32, num_layers=2)
        return [
            Case("wan-debug", "tiny", config, (2, 4, 4), (2,), False),
            Case("wan-debug", "drawn", config, (2, 4, 4), (1, 2), False),
        ]
    if session.device.type != "cuda":
        raise UserError(
            "This part of the benchmark measures Wan2.1-sized networks and needs a CUDA GPU with about 40 GiB; "
            "--size tiny rehearses it here."
        )
    small, large = PRESETS["wan-1.3b"], PRESETS["wan-14b"]
    p480, p720 = (21, 30, 52), (21, 45, 80)
    if session.is_brief:
        return [
            Case("wan-1.3b", "720x1280x81", small, p720, (4, 8), False),
            Case("wan-14b", "720x1280x81", large, p720, (2, 4), False),
            Case("wan-1.3b", "720x1280x81", small, p720, (4, 8)),
            Case("wan-14b", "720x1280x81", large, p720, (2, 4)),
        ]
    return [
        Case("wan-1.3b", "720x1280x81", small, p720, (30,)),
        Case("wan-14b", "720x1280x81", large, p720, (2, 4)),
        Case("wan-1.3b", "480x832x81", small, p480, (30,)),
        Case("wan-14b", "480x832x81", large, p480, (2, 4)),
    ]


def measure(session: Session) -> PartReport:
    """Measure all cases."""
    report = session.report
    report.notes += _NOTES
    for case in cases(session):
        label = f"{case.name}, {case.size}, {'compiled' if case.is_compiled else 'eager'}"
        needed = (25 if case.is_compiled else 8) if session.is_brief else 60
        if not session.has_time(needed):
            report.left_out.append(f"{label}: no time left")
            continue
        session.say(f"wan: {label} ({session.budget.spent:.0f} s)")
        report.add(_row(session, report, case))
        free_memory()
    return report


_NOTES = [
    "One evaluation, one prompt (Wan evaluates guidance as two calls), 512 text tokens, random weights. "
    "attention: self-attention, cuDNN's kernel first; m4v: MM-DiM in every layer with temporal branch, "
    "text carried. Where scaled_from_layers is given, the time of all layers is drawn from these two numbers of them. "
    "bound: ratio of operations.",
]


def _row(session: Session, report: PartReport, case: Case) -> Row:
    clock = session.clock(5, 3.0 if session.is_brief else 6.0)
    problems: dict[str, str] = {}
    with clock.reporting(problems, "m4v"):
        _check_scan(session, report, case)
    measured: dict[int, dict[str, float]] = {}
    peaks: dict[str, float] = {}
    for layers in case.layers:
        result, peaks = _measure_layers(session, report, case, layers, problems)
        problems |= result.problems
        measured[layers] = result.ms
    total = case.config.num_layers
    ms: dict[str, float] = {}
    for name in _PLANS:
        if all(name in times for times in measured.values()):
            ms[name] = drawn_out({layers: times[name] for layers, times in measured.items()}, total)
    figures: dict[str, float] = {"bound": _bound(case)}
    if len(ms) == len(_PLANS):
        figures["speedup_m4v_over_attention"] = ms["attention"] / ms["m4v"]
    setting = {
        "network": case.name,
        "size": case.size,
        "length": case.grid[0] * case.grid[1] * case.grid[2],
        "layers": total,
        "compiled": case.is_compiled,
        "scaled_from_layers": "" if len(case.layers) == 1 else " and ".join(map(str, case.layers)),
        "dtype": str(session.dtype).removeprefix("torch."),
        "device": session.device.type,
    }
    return Row(
        setting=setting, ms=ms, peak_mib=peaks if len(case.layers) == 1 else {}, figures=figures, problems=problems
    )


def drawn_out(ms: dict[int, float], num_layers: int) -> float:
    """Time of a number of layers from the times of one or two numbers: a line through both."""
    if len(ms) == 1:
        ((measured, value),) = ms.items()
        assert measured == num_layers, (measured, num_layers)
        return value
    (few, low), (more, high) = sorted(ms.items())
    return high + (num_layers - more) * (high - low) / (more - few)


def _measure_layers(
    session: Session, report: PartReport, case: Case, layers: int, problems: dict[str, str]
) -> tuple[Comparison, dict[str, float]]:
    clock = session.clock(5, 3.0 if session.is_brief else 6.0)
    frames, rows, columns = (count * side for count, side in zip(case.grid, case.config.patch_size, strict=True))
    latents = torch.randn(1, case.config.in_channels, frames, rows, columns, device=session.device).to(session.dtype)
    text = torch.randn(1, _TEXT_TOKENS if not session.is_tiny else 8, case.config.text_dim, device=session.device)
    text, timestep = text.to(session.dtype), torch.full((1,), 500.0, device=session.device)
    contenders: list[Contender] = []
    failed: dict[str, str] = {}
    for name, plan in _PLANS.items():
        if name in problems:
            continue
        with clock.reporting(failed, name):
            config = replace(case.config, mixer_plan=plan, num_layers=layers)
            network = build_network(config, session.device, session.dtype)
            call = steady_clip_call(network, latents, timestep, text)
            if case.is_compiled and not session.is_tiny and (obstacle := compiled_or_eager(network, call)) is not None:
                raise RuntimeError(f"not compiled: {obstacle}")
            contenders.append(Contender(name=name, calls=[call]))
    result = clock.compare(contenders)
    result.problems.update(failed)
    return result, clock.peaks_mib(contenders, result.problems)


def _check_scan(session: Session, report: PartReport, case: Case) -> None:
    """The scan section at this head width on a shorter clip of these frames, without norm: Wan has its own before."""
    frames, rows, columns = case.grid
    layout = SequenceLayout((FrameGrid(0, rows, columns),) * min(frames, 4), 16, num_noisy_frames=min(frames, 4))
    heads, width = min(case.config.num_attention_heads, 4), case.config.attention_head_dim
    inputs = section_inputs(layout, heads, width, session.device, session.dtype, norm_and_rope=False)
    errors = check_against_reference(inputs, with_gradients=False)
    require_correct("the scan", errors, session.dtype)
    report.checks[f"scan, heads of {width}"] = errors["forward"]


def _bound(case: Case) -> float:
    totals: Sequence[float] = [
        wan_call_flops(replace(case.config, mixer_plan=plan), case.grid, _TEXT_TOKENS).total for plan in _PLANS.values()
    ]
    return totals[0] / totals[1]
