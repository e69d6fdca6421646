"""Networks that the benchmark compares, by the names that the report uses."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from m4v.analysis.bench.attention_partners import sdpa
from m4v.analysis.bench.floors import MixerShape, section_floor_ms
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.work import Work, work_contender
from m4v.analysis.flops import call_flops
from m4v.analysis.mixer_flops import attention_scores_flops
from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig

MAIN = ("attention", "attention_frame_causal", "m4v", "m4v_frame_causal", "dual_mamba")
"""The attention-only network, M4V as published, each with and without the temporal mask in its attention; and M4V with
scans in the dual-stream blocks, which has no such attention."""

BRIEF = ("attention", "m4v", "dual_mamba")
"""Those that the aims compare."""

TABLE_4 = ("pre_half", "post_half", "interleaved", "parallel")

NOTE = (
    "attention: attention-only, dense and without mask; m4v: plan full, its dual-stream attention alike; "
    "*_frame_causal: attention with the temporal mask; dual_mamba: scans in the dual-stream blocks, too; other names: "
    "plans of Table 4 without mask."
)


def variant(base: DenoiserConfig, name: str) -> DenoiserConfig:
    """Configuration of a network by name."""
    changes: dict[str, Any] = {"temporal_causal_attention": name.endswith("frame_causal")}
    if name.startswith("attention"):
        changes["mixer_plan"] = "attention-only"
    elif name in TABLE_4:
        changes["mixer_plan"] = name.replace("_", "-")
    else:
        changes["mixer_plan"] = "full"
    if name == "dual_mamba":
        changes["dual_mixer"] = "mm_dim"
    return replace(base, **changes)


@dataclass(frozen=True)
class PartCosts:
    """What the parts of a network cost at least, for the bound of a speed-up.

    Attributes:
        flops_per_second: Measured rate of matrix products.
        attention_ms: Measured time of one layer's attention, without projections, for the whole batch.
        scan_ms: Floor of one layer's scan section, for the whole batch.
        batch_size: Samples.
        num_passes: Times that every other matrix product is done: 1, or 3 with the backward pass.
    """

    flops_per_second: float
    attention_ms: float
    scan_ms: float
    batch_size: int
    num_passes: int = 1

    def network_ms(self, config: DenoiserConfig, layout: SequenceLayout) -> float:
        """Least time of one evaluation: matrix products at their rate, attention as measured, scans at their floor."""
        tokens = layout.num_text_tokens + layout.num_video_tokens
        has_dual_scan = config.dual_mixer == "mm_dim"
        attending = sum(kind != "mm_dim" for kind in config.kinds) + config.num_dual_layers * (not has_dual_scan)
        scanning = sum(kind != "attention" for kind in config.kinds) + config.num_dual_layers * has_dual_scan
        scores = attending * attention_scores_flops(tokens, tokens, config.width)
        products = self.batch_size * (call_flops(config, layout).total - scores)
        return (
            self.num_passes * products / self.flops_per_second * 1e3
            + attending * self.attention_ms
            + scanning * self.scan_ms
        )


def measured_costs(
    session: Session, base: DenoiserConfig, layout: SequenceLayout, batch_size: int, *, with_backward: bool = False
) -> PartCosts:
    """Time attention alone on this length; the rest are floors."""
    heads, width = base.num_attention_heads, base.attention_head_dim
    tokens = layout.num_text_tokens + layout.num_video_tokens
    query, key, value = (
        torch.randn(batch_size, heads, tokens, width, device=session.device).to(session.dtype) for _ in range(3)
    )
    leaves = [tensor.requires_grad_(with_backward) for tensor in (query, key, value)]
    attention = work_contender("attention", [Work(lambda: sdpa(query, key, value), leaves)], with_backward)
    attention_ms = session.clock(5, 0.5).median_ms(attention.calls[0])
    shape = MixerShape(num_tokens=tokens, num_heads=heads, head_dim=width, itemsize=session.dtype.itemsize)
    scan_ms = batch_size * section_floor_ms(shape, session.rates, with_backward=with_backward)
    return PartCosts(
        session.rates.flops_per_second, attention_ms, scan_ms, batch_size, num_passes=3 if with_backward else 1
    )


def bounds(base: DenoiserConfig, layout: SequenceLayout, names: tuple[str, ...], costs: PartCosts) -> dict[str, float]:
    """Speed-up over attention-only that each network would have if nothing but these parts took time."""
    attention = costs.network_ms(variant(base, "attention"), layout)
    return {
        f"bound_{name}": attention / costs.network_ms(variant(base, name), layout)
        for name in names
        if not name.startswith("attention")
    }


def speedups(ms: dict[str, float]) -> dict[str, float]:
    """Of every network over attention without mask, and over frame-causal attention where that was measured."""
    result = {}
    for partner in ("attention", "attention_frame_causal"):
        for name, value in ms.items():
            if partner in ms and not name.startswith("attention"):
                result[f"speedup_{name}_over_{partner}"] = ms[partner] / value
    return result
