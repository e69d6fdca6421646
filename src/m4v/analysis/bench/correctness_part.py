"""`--part correctness`: kernels against float64, every path and head width, and the whole network on both backends."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from m4v.analysis.bench.networks import pyramid_call, randomise
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import SectionInputs, relative_error, section_inputs, tolerance
from m4v.analysis.bench.session import Session
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, RecompositionConfig
from m4v.ops.scan_section.dispatch import choose_backend

_LAYOUT = SequenceLayout((FrameGrid(0, 3, 5), FrameGrid(1, 6, 10), FrameGrid(2, 12, 20)), 10)
_SMALL = SequenceLayout((FrameGrid(0, 2, 3), FrameGrid(1, 4, 6)), 6)
_NETWORK = DenoiserConfig(
    in_channels=4,
    num_attention_heads=2,
    attention_head_dim=32,
    num_dual_layers=1,
    num_single_layers=4,
    text_dim=32,
    pooled_text_dim=16,
    rope_axes_dims=(8, 12, 12),
    patch_size=1,
    recomposition=RecompositionConfig(scan_paths="aceh"),
)


def measure(session: Session) -> PartReport:
    """Compare outputs and all gradients with float64 on the CPU, on the same inputs."""
    report = session.report
    layout = _SMALL if session.is_tiny else _LAYOUT
    for name, head_dim, dtype, path in _cases(session.is_tiny):
        session.say(f"correctness: {name}")
        problems: dict[str, str] = {}
        errors: dict[str, float] = {}
        with session.clock().reporting(problems, "ours"):
            # Some padding, so that its masking is part of what is compared.
            inputs = section_inputs(layout, 2, head_dim, session.device, dtype, path=path, real_text=4)
            errors = kernel_errors(inputs)
            report.checks |= {f"{name}, {kind}": error for kind, error in errors.items()}
        is_right = not problems and all(error <= tolerance(dtype, kind != "outputs") for kind, error in errors.items())
        backend = choose_backend(session.device, dtype, head_dim, head_dim)
        setting = {
            "case": name,
            "head_dim": head_dim,
            "dtype": str(dtype).removeprefix("torch."),
            "path": path,
            "backend": backend,
            "tolerance": tolerance(dtype, False),
        }
        report.add(Row(setting=setting, figures={**errors, "passed": is_right}, problems=problems))
    for row in _network_rows(session):
        report.add(row)
    report.figures["passed"] = all(row.figures.get("passed") is True for row in report.rows)
    report.notes.append(
        "Relative L2 errors against float64 on the CPU with the same (rounded) inputs; gradients: the worst of all "
        "inputs and weights. The network is compared as a whole, with random weights everywhere."
    )
    return report


def _cases(is_tiny: bool) -> Iterator[tuple[str, int, torch.dtype, str]]:
    f32, bf16 = torch.float32, torch.bfloat16
    if is_tiny:
        yield "heads of 32, float32, path a", 32, f32, "a"
        return
    for head_dim in (32, 64, 128):
        for dtype in (f32, bf16):
            name = str(dtype).removeprefix("torch.")
            yield f"heads of {head_dim}, {name}, path a", head_dim, dtype, "a"
    for path in "bcdefgh":
        yield f"heads of 64, float32, path {path}", 64, f32, path


def kernel_errors(inputs: SectionInputs) -> dict[str, float]:
    """Relative errors of outputs and of the worst gradient."""
    truth = inputs.on_cpu().to(torch.float64)
    mine, true = inputs.leaves, truth.leaves
    mixed, expected = inputs.mix(), truth.mix_by_reference()
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direction = direction.to(mixed.dtype).double()
    grads = torch.autograd.grad(mixed, mine, direction.to(mixed.device, mixed.dtype), allow_unused=True)
    expected_grads = torch.autograd.grad(expected, true, direction, allow_unused=True)
    pairs = [(g, e) for g, e in zip(grads, expected_grads, strict=True) if g is not None and e is not None]
    return {
        "outputs": relative_error(mixed, expected),
        "worst_gradient": max(relative_error(grad, wanted) for grad, wanted in pairs),
    }


def _network_rows(session: Session) -> Iterator[Row]:
    """The small denoiser on the device against itself in float64 on the CPU, where plain torch computes the scan."""
    layout = SequenceLayout((FrameGrid(0, 3, 4), FrameGrid(1, 6, 8)), 6)
    for name, extra in (("full", {}), ("parallel", {}), ("full", {"dual_mixer": "mm_dim"})):
        if extra and not hasattr(_NETWORK, "dual_mixer"):
            continue
        label = f"network, plan {name}{', scans in dual-stream blocks' if extra else ''}"
        session.say(f"correctness: {label}")
        problems: dict[str, str] = {}
        figures: dict[str, Any] = {"passed": False}
        with session.clock().reporting(problems, "ours"):
            config = replace(_NETWORK, mixer_plan=name, **extra)  # type: ignore[arg-type]
            error = _network_error(config, layout, session.device)
            figures = {"outputs": error, "passed": error <= tolerance(torch.float32, False)}
        backend = choose_backend(session.device, torch.float32, 32, 32)
        yield Row(
            setting={"case": label, "head_dim": 32, "dtype": "float32", "path": "aceh", "backend": backend,
                     "tolerance": tolerance(torch.float32, False)},
            figures=figures,
            problems=problems,
        )  # fmt: skip


def _network_error(config: DenoiserConfig, layout: SequenceLayout, device: torch.device) -> float:
    from m4v.core.config_io import to_plain
    from m4v.models.denoiser.pyramid import M4VTransformer3DModel

    network = M4VTransformer3DModel(**to_plain(config)).eval()
    randomise(network)
    arguments = pyramid_call(config, layout, batch_size=2, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        expected = network.double()(*arguments.to(dtype=torch.float64).arguments)
        found = network.float().to(device)(*arguments.to(device=device).arguments)
    return relative_error(found, expected)
