"""The scan section's kernels against plain torch and attention on one GPU: `python benchmarks/scan_section.py`.

30 heads of width 64 (the 2B pyramid network) in bf16, re-composed layouts of 768p units, norm and rotation on. Nothing
is timed before values and gradients agree with float64. Times are medians; "replay" is a recorded device graph, which
leaves the launches' cost out.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.positions import layout_rotary
from m4v.models.denoiser.recomposition.plan import recomposition_plan
from m4v.ops.scan_section import custom_op, reference
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, kernel_index

HEADS, HEAD_DIM = 30, 64
WIDTH = HEADS * HEAD_DIM
BF16 = torch.bfloat16
# What a pass with a preparation kernel reads and writes at least, in bytes per token.
FLOOR_BYTES = 54e3


def layouts() -> Iterator[tuple[str, SequenceLayout]]:
    """Sequences of the paper's 768p videos, from the shortest call to one beyond training."""

    def unit(number: int) -> SequenceLayout:
        history = [FrameGrid(0, 12, 20)] * max(number - 2, 0)
        history += [FrameGrid(1, 24, 40)] * (number >= 2) + [FrameGrid(2, 48, 80)] * (number >= 1)
        return SequenceLayout((*history, FrameGrid(2, 48, 80)), 128)

    yield "unit 0, coarsest", SequenceLayout((FrameGrid(0, 12, 20),), 128)
    yield "unit 0, middle", SequenceLayout((FrameGrid(1, 24, 40),), 128)
    yield "unit 0, finest", unit(0)
    yield "unit 15, finest", unit(15)
    yield "unit 30, finest", unit(30)
    yield "17 full frames", SequenceLayout((FrameGrid(2, 48, 80),) * 17, 128)


def inputs(layout: SequenceLayout, heads: int, device: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Random arguments of the section for one sample, all of them leaves that take gradients."""
    generator = torch.Generator(device).manual_seed(0)
    width = heads * HEAD_DIM

    def normal(*shape: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(to)

    num_rows = layout.num_text_tokens + layout.num_video_tokens
    bound = recomposition_plan(layout, "a", RecompositionConfig(), torch.device(device)).bind(
        torch.ones(1, layout.num_text_tokens, dtype=torch.bool, device=device)
    )
    rotary = bound.rotary(layout_rotary(layout, (16, 24, 24), torch.device(device)))
    order = SectionOrder(bound.order, bound.is_real, rotary, kernel_index(bound.order, bound.is_real))
    wide = torch.promote_types(dtype, torch.float32)
    weights = ScanWeights(
        conv_weight=normal(3 * width, 4, to=wide) / 2,
        conv_bias=normal(3 * width, to=wide) / 10,
        A_log=torch.linspace(1, 16, heads, device=device).log().to(wide),
        D=torch.ones(heads, device=device, dtype=wide),
        dt_bias=normal(heads, to=wide) - 4,
        norm_weight=torch.ones(heads, HEAD_DIM, device=device, dtype=wide),
        norm_b=torch.ones(HEAD_DIM, device=device, dtype=wide),
        norm_c=torch.ones(HEAD_DIM, device=device, dtype=wide),
    )
    rows = (normal(1, num_rows, 4 * width), normal(3, 4 * width), normal(1, num_rows, heads) - 3, normal(3, heads))
    return (*rows, weights, order, ScanOptions())


def leaves(arguments: tuple[Any, ...]) -> list[Tensor]:
    """Everything that takes gradients."""
    return [tensor.requires_grad_() for tensor in (*arguments[:4], *arguments[4])]


def check() -> dict[str, float]:
    """Relative errors of fp32 kernels against float64 on the CPU, outputs and worst gradient.

    Raises:
        SystemExit: if one is above 1e-4.
    """
    layout = SequenceLayout((FrameGrid(0, 4, 6), FrameGrid(1, 8, 12)), 10)
    arguments = inputs(layout, 2, "cuda", torch.float32)
    mine = leaves(arguments)
    mixed = custom_op.scan_section(*arguments).mixed
    direction = torch.randn_like(mixed)
    mixed.backward(direction)
    double = [tensor.detach().cpu().double().requires_grad_() for tensor in mine]
    order = inputs(layout, 2, "cpu", torch.float64)[5]
    expected = reference.scan_section(*double[:4], ScanWeights(*double[4:]), order, ScanOptions()).mixed
    expected.backward(direction.cpu().double())

    def error(found: Tensor, true: Tensor) -> float:
        return float((found.detach().cpu().double() - true).norm() / true.norm())

    gradients = max(error(tensor.grad, true.grad) for tensor, true in zip(mine, double, strict=True))
    errors = {"outputs": error(mixed, expected.detach()), "worst gradient": gradients}
    if max(errors.values()) > 1e-4:
        raise SystemExit(f"The kernels are wrong, so nothing is timed: {errors}")
    return errors


def median_ms(call: Callable[[], Any], repeats: int = 10) -> float:
    """Median device time of a call."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[repeats // 2]


def replay_ms(call: Callable[[], Any]) -> float:
    """The same of a recorded device graph."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_ms(graph.replay)


def measure(name: str, layout: SequenceLayout, bandwidth: float) -> dict[str, Any]:
    """One row: kernels, plain torch, attention, and the matrix products around both."""
    arguments = inputs(layout, HEADS, "cuda", BF16)
    length = arguments[0].shape[1]
    with torch.no_grad():
        forward = median_ms(lambda: custom_op.scan_section(*arguments))
        replayed = replay_ms(lambda: custom_op.scan_section(*arguments))
        plain = median_ms(lambda: reference.scan_section(*arguments), 3) if length < 20_000 else None
    tensors = leaves(arguments)
    direction = torch.randn(1, length, WIDTH, device="cuda", dtype=BF16)

    def both() -> None:
        for tensor in tensors:
            tensor.grad = None
        custom_op.scan_section(*arguments).mixed.backward(direction)

    forward_backward = median_ms(both, 5)
    query, key, value = (torch.randn(1, HEADS, length, HEAD_DIM, device="cuda", dtype=BF16) for _ in range(3))
    with torch.no_grad():
        attention = median_ms(lambda: F.scaled_dot_product_attention(query, key, value), 5)
    for tensor in (query, key, value):
        tensor.requires_grad_()
    grad = torch.randn_like(query)
    attention_both = median_ms(lambda: F.scaled_dot_product_attention(query, key, value).backward(grad), 5)
    tokens = torch.randn(length, WIDTH, device="cuda", dtype=BF16)
    four, three, one = (torch.randn(n * WIDTH, WIDTH, device="cuda", dtype=BF16).t() for n in (4, 3, 1))
    products = median_ms(lambda: (tokens @ four, tokens @ one))
    attention_products = median_ms(lambda: (tokens @ three, tokens @ one))
    floor = FLOOR_BYTES * length / bandwidth * 1e3
    return {
        "case": name,
        "tokens": length,
        "forward_ms": forward,
        "forward_replay_ms": replayed,
        "forward_backward_ms": forward_backward,
        "plain_torch_forward_ms": plain,
        "attention_forward_ms": attention,
        "attention_forward_backward_ms": attention_both,
        "projections_ms": products,
        "attention_projections_ms": attention_products,
        "mixer_speedup": (attention + attention_products) / (replayed + products),
        "byte_floor_ms": floor,
        "floor_reached": floor / replayed,
    }


def main() -> None:
    """Check, measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="memory bytes per second (default: H100)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    errors = check()
    print("errors of fp32 kernels against float64:", {name: f"{value:.1e}" for name, value in errors.items()})  # noqa: T201
    rows = []
    for name, layout in layouts():
        rows.append(measure(name, layout, arguments.bandwidth))
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}
        print(json.dumps(shown), flush=True)  # noqa: T201
    if arguments.json is not None:
        report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "errors": errors, "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
