"""`--part train`: time and memory of a training step with attention, M4V, and scans in the dual-stream blocks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from m4v.analysis.bench.clock import Contender, free_memory
from m4v.analysis.bench.denoiser_part import network_base
from m4v.analysis.bench.networks import build_network, compiled, pyramid_call
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import check_against_reference, require_correct, section_inputs
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.variants import BRIEF, NOTE, measured_costs, variant
from m4v.analysis.tokens import unit_layout
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.shapes import LatentShape

_LAYERS = (2, 4)
_LATENTS = {
    "768x1280x241": LatentShape(num_units=31, height=96, width=160),
    "384x640x241": LatentShape(num_units=31, height=48, width=80),
}


@dataclass(frozen=True)
class Case:
    """One step: the last unit of a video at one level, as one column of a training batch."""

    size: str
    latent: LatentShape
    level: int
    checkpointing: bool
    is_compiled: bool


def cases(session: Session, latent: LatentShape) -> list[Case]:
    """By importance."""
    if session.is_tiny:
        return [Case("tiny", latent, 2, False, False), Case("tiny", latent, 0, True, False)]
    large, small = _LATENTS.items()
    order = [Case(*large, 2, False, False), Case(*large, 2, True, False), Case(*small, 2, False, False)]
    order += [Case(*large, level, False, False) for level in (1, 0)]
    order += [Case(*small, 2, True, False), Case(*large, 2, False, True), Case(*small, 2, False, True)]
    return [order[0], order[2], order[1]] if session.is_brief else order


def measure(session: Session) -> PartReport:
    """Measure all variants case by case."""
    report = session.report
    report.notes += [NOTE, *_NOTES]
    base, latent, num_text = network_base(session)
    config = base if session.is_tiny else replace(base, num_dual_layers=_LAYERS[0], num_single_layers=_LAYERS[1])
    networks: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in BRIEF:
        with session.clock().reporting(failed, name):
            networks[name] = build_network(variant(config, name), session.device, session.dtype).train()
    scale = (base.num_dual_layers + base.num_single_layers) / (config.num_dual_layers + config.num_single_layers)
    is_compiled = False
    for case in cases(session, latent):
        label = f"{case.size}, level {case.level}, checkpointing {'on' if case.checkpointing else 'off'}"
        label += ", compiled" if case.is_compiled else ""
        if not session.has_time(6 if session.is_brief else 45):
            report.left_out.append(f"{label}: no time left")
            continue
        session.say(f"train: {label} ({session.budget.spent:.0f} s)")
        if case.is_compiled and not is_compiled:
            is_compiled = True
            for name, network in networks.items():
                with session.clock().reporting(failed, name):
                    compiled(network, for_training=True)
        layout = unit_layout(base, case.latent, case.latent.num_units - 1, case.level, num_text)
        report.add(_row(session, report, case, layout, networks, failed, scale))
        free_memory()
    return report


_NOTES = [
    "One forward and backward pass of one sample, no optimizer step, weights in the precision of the row. Measured "
    "with 2 dual-stream and 4 single-stream blocks, the same shares as 8 and 16; scaled_* is four times as much, ends "
    "included. Peaks are on top of the weights and contain their gradients. Temporal branches are part of m4v and "
    "dual_mamba. dual_mamba_over_m4v compares scans with attention in the dual-stream blocks. bound_*: "
    "the same ratio if nothing took time but matrix products at their measured rate, attention as measured alone, and "
    "scans at the floor of their bytes.",
]


def _row(
    session: Session,
    report: PartReport,
    case: Case,
    layout: SequenceLayout,
    networks: dict[str, Any],
    failed: dict[str, str],
    scale: float,
) -> Row:
    clock = session.clock(5, 4.0)
    problems = dict(failed)
    config = next(iter(networks.values())).settings
    scan_problem: dict[str, str] = {}
    with clock.reporting(scan_problem, "scan"):
        heads, width = config.num_attention_heads, config.attention_head_dim
        inputs = section_inputs(layout, heads, width, session.device, session.dtype)
        errors = check_against_reference(inputs, with_gradients=True)
        require_correct("the scan", errors, session.dtype)
        report.checks |= {f"scan, {kind}": error for kind, error in errors.items()}
        del inputs
    contenders = []
    for name, network in networks.items():
        if scan_problem and name != "attention":
            problems[name] = scan_problem["scan"]
        elif name not in problems:
            (network.enable_gradient_checkpointing if case.checkpointing else network.disable_gradient_checkpointing)()
            contenders.append(Contender(name=name, calls=[_step(session, network, layout)]))
    times = clock.compare(contenders)
    problems |= times.problems
    peaks = clock.peaks_mib(contenders, problems)
    setting = {
        "size": case.size,
        "level": case.level,
        "length": layout.num_text_tokens + layout.num_video_tokens,
        "checkpointing": case.checkpointing,
        "compiled": case.is_compiled,
        "dtype": str(session.dtype).removeprefix("torch."),
        "device": session.device.type,
    }
    floors = measured_costs(session, config, layout, 1, with_backward=True)
    least = {name: floors.network_ms(variant(config, name), layout) for name in times.ms}
    figures: dict[str, float] = {f"scaled_{name}_ms": scale * value for name, value in times.ms.items()}
    for name, partner in (("dual_mamba", "m4v"), ("m4v", "attention"), ("dual_mamba", "attention")):
        if name in times.ms and partner in times.ms:
            figures[f"{name}_over_{partner}"] = times.ms[name] / times.ms[partner]
            figures[f"bound_{name}_over_{partner}"] = least[name] / least[partner]
        if peaks.get(name) and peaks.get(partner):
            figures[f"memory_{name}_over_{partner}"] = peaks[name] / peaks[partner]
    return Row(setting=setting, ms=times.ms, peak_mib=peaks, figures=figures, problems=problems)


def _step(session: Session, network: Any, layout: SequenceLayout) -> Callable[[], None]:
    call = pyramid_call(network.settings, layout, batch_size=1, dtype=session.dtype, device=session.device)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(*call.arguments).float().square().mean().backward()
        # Gradients are gone before the next contender's peak is taken.
        network.zero_grad(set_to_none=True)

    return step
