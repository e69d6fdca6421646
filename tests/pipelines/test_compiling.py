"""Compiled blocks serve all levels and units: a few graphs, however many layouts a video has."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import debug_pipeline
from tests.pipelines.wan_parts import wan_pipeline

# 2 x 3 cells at the coarsest level: a single one, or as many tokens as channels, would make cases of their own.
OPTIONS = {"height": 64, "width": 96, "num_inference_steps": 1, "seed": 3, "output_type": "latent"}


@pytest.fixture(autouse=True)
def clean_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def one_operation_scan(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
) -> SectionOutput:
    """What the kernels are to the compiler: operations on tensors of any length, no loop over the sequence."""
    width = weights.norm_weight.numel()
    padded = torch.cat([rows, register_rows.expand(len(rows), -1, -1)], dim=1)
    scanned = padded.gather(1, order.rows.index[..., None].expand(-1, -1, rows.shape[2]))[..., :width]
    if order.rotary is not None:
        scanned = scanned * order.rotary.cos.mean(1)[:, None]
    back = scanned.gather(1, order.rows.positions[..., None].expand(-1, -1, width))
    return SectionOutput(back * order.rows.register_levels.float().mean() * dt.mean(-1, keepdim=True), rows)


def pipeline_with(**settings: Any) -> M4VPipeline:
    pipeline = debug_pipeline()
    torch.manual_seed(0)
    transformer = M4VTransformer3DModel(**denoiser_preset("debug") | settings).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pipeline.register_modules(transformer=transformer)
    return pipeline


@pytest.mark.parametrize(
    ("plan", "most"),
    # Dual blocks: one graph. Single ones: unit 0 (one register) and later ones, with and without frames to pool.
    [pytest.param("full", 1 + 4, marks=pytest.mark.slow), ("attention-only", 1 + 1)],
)
def test_graphs_do_not_grow_with_levels_and_units(plan: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m4v.models.denoiser.mixers.scan.scan_section", one_operation_scan)
    pipeline = pipeline_with(mixer_plan=plan)
    plain = pipeline("a red ball", num_frames=13, **OPTIONS).frames
    pipeline.transformer.compile_repeated_blocks(dynamic=True, fullgraph=True, backend="eager")
    assert torch.equal(pipeline("a red ball", num_frames=9, **OPTIONS).frames, plain[:, :, :3])
    assert counters["stats"]["unique_graphs"] <= most
    assert not counters["graph_break"]
    after_three_units = counters["stats"]["unique_graphs"]
    assert torch.equal(pipeline("a red ball", num_frames=13, **OPTIONS).frames, plain)
    assert counters["stats"]["unique_graphs"] == after_three_units


class Asked:
    """Notes what a pipeline asks of its denoiser, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, transformer: Any) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        for name in ("fuse_projections", "compile_repeated_blocks"):
            monkeypatch.setattr(
                type(transformer), name, lambda _, name=name, **options: self.calls.append((name, options)), False
            )


@pytest.mark.parametrize("build", [debug_pipeline, wan_pipeline], ids=["pyramid", "wan"])
def test_both_pipelines_fuse_then_compile_for_all_sizes(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = build()
    asked = Asked(monkeypatch, pipeline.transformer)
    pipeline.compile_denoiser()
    assert asked.calls == [("fuse_projections", {}), ("compile_repeated_blocks", {"dynamic": True})]
    assert torch._dynamo.config.recompile_limit >= 12
