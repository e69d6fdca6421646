"""What the benchmark computes from its measurements: floors, break-even, sums, lines, ratios."""

import pytest

from m4v.analysis.bench import floors
from m4v.analysis.bench.aims import _slowest
from m4v.analysis.bench.break_even import break_even, break_evens
from m4v.analysis.bench.generate_part import interpolated, video_seconds
from m4v.analysis.bench.machine import Rates
from m4v.analysis.bench.mixer_figures import add_fastest, row_figures
from m4v.analysis.bench.rows import Row
from m4v.analysis.bench.scan_case import layout_of_length
from m4v.analysis.bench.variants import MAIN, PartCosts, bounds, speedups, variant
from m4v.analysis.bench.wan_part import drawn_out
from m4v.analysis.tokens import unit_layout
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from m4v.pipelines.unit_loop import LoopSettings

PAPER = floors.MixerShape(num_tokens=15_488, num_heads=30, head_dim=64, itemsize=2)


def test_bytes_of_the_published_case() -> None:
    assert floors.staged_bytes(PAPER) / PAPER.num_tokens == pytest.approx(54e3, rel=0.01)
    assert floors.fused_bytes(PAPER) / PAPER.num_tokens == pytest.approx(31e3, rel=0.01)


def test_floor_is_the_slower_of_bytes_and_operations() -> None:
    slow_memory, slow_matrices = Rates(1e9, 1e18), Rates(1e18, 1e9)
    assert floors.section_floor_ms(PAPER, slow_memory) == pytest.approx(floors.staged_bytes(PAPER) / 1e9 * 1e3)
    assert floors.section_floor_ms(PAPER, slow_matrices) == pytest.approx(floors.section_flops(PAPER) / 1e9 * 1e3)


def test_floor_ratio_at_15k_tokens_is_near_the_published_one() -> None:
    """5.2 with attention at 487 TFLOP/s; here attention, too, runs at the rate of matrix products."""
    rates = Rates(4.3e12, 790e12)
    attention = floors.attention_floor_ms(PAPER, rates, with_projections=True)
    ratio = attention / floors.mixer_floor_ms(PAPER, rates)
    assert 3.0 < ratio < 5.2


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({256: 0.5, 1024: 2.0}, 512),  # halfway on both logarithmic axes
        ({256: 1.5, 1024: 2.0}, 256),
        ({256: 2.0, 512: 0.5, 2048: 2.0}, 1024),  # what was lost again does not count
        ({256: 2.0, 1024: 0.9}, None),
        ({}, None),
    ],
)
def test_break_even(ratios: dict[int, float], expected: int | None) -> None:
    assert break_even(ratios) == expected


def test_break_even_goes_with_the_shortest_length_measured() -> None:
    def row(length: int, ours: float) -> Row:
        setting = {"scope": "whole mixer", "length": length, "width": 384, "dtype": "float32", "pass": "forward"}
        return Row(setting=setting, ms={"ours": ours, "attention": 2.0})

    assert list(break_evens([row(256, 1.0), row(512, 0.5)]).values()) == [256, 256]
    assert list(break_evens([row(256, 4.0), row(1024, 1.0)]).values()) == [512, 256]


def test_bounds_of_training_count_the_backward_pass() -> None:
    base = PRESETS["pyramid-2b"]
    layout = unit_layout(base, LatentShape(num_units=31, height=96, width=160), 30, 2, 128)
    once, thrice = PartCosts(700e12, 0.0, 0.0, 1), PartCosts(700e12, 0.0, 0.0, 1, num_passes=3)
    assert thrice.network_ms(base, layout) == pytest.approx(3 * once.network_ms(base, layout))


@pytest.mark.parametrize("length", [64, 256, 368, 2048, 3968, 11888, 15488, 65536])
def test_layouts_are_as_long_as_asked(length: int) -> None:
    layout = layout_of_length(length)
    assert layout.num_text_tokens + layout.num_video_tokens == length


def test_missing_units_lie_on_a_line() -> None:
    assert interpolated({1: 10.0, 5: 50.0, 6: 0.0}, 3) == 30.0
    assert interpolated({1: 10.0, 2: 20.0}, 5) == 50.0
    assert interpolated({7: 3.0}, 0) == 3.0


def test_a_video_is_the_sum_of_its_evaluations() -> None:
    settings = LoopSettings(first_steps=(3, 2), later_steps=(2, 1))
    costs = {(unit, level): 100.0 * unit + 10.0 * level + 1.0 for unit in range(4) for level in range(2)}
    by_hand = sum(
        (settings.first_steps if unit == 0 else settings.later_steps)[level] * value
        for (unit, level), value in costs.items()
    )
    assert video_seconds(costs, settings, 4) == pytest.approx(by_hand / 1e3)
    thinned = {key: value for key, value in costs.items() if key[0] != 2}  # linear, so nothing is lost
    assert video_seconds(thinned, settings, 4) == pytest.approx(by_hand / 1e3)


def test_layers_are_drawn_out_on_a_line() -> None:
    assert drawn_out({2: 5.0, 4: 9.0}, 40) == 81.0
    assert drawn_out({30: 7.0}, 30) == 7.0


def test_bounds_of_the_last_unit_are_the_papers() -> None:
    base = PRESETS["pyramid-2b"]
    layout = unit_layout(base, LatentShape(num_units=31, height=96, width=160), 30, 2, 128)
    # Matrix products at 700 TFLOP/s, attention of a batch of 2 in 7.4 ms (cuDNN on an H200), scans at their floor.
    found = bounds(base, layout, MAIN, PartCosts(700e12, 7.4, 0.4, 2))
    assert found["bound_m4v"] == pytest.approx(1.55, abs=0.1)
    assert found["bound_dual_mamba"] == pytest.approx(2.15, abs=0.15)
    assert set(found) == {"bound_m4v", "bound_m4v_frame_causal", "bound_dual_mamba"}


def test_variants_differ_in_what_their_names_say() -> None:
    base = PRESETS["debug"]
    assert variant(base, "attention").mixer_plan == "attention-only"
    assert not variant(base, "attention").temporal_causal_attention
    assert variant(base, "m4v_frame_causal").temporal_causal_attention
    assert variant(base, "dual_mamba").dual_mixer == "mm_dim"
    assert variant(base, "post_half").mixer_plan == "post-half"


def test_speedups_are_over_both_kinds_of_attention() -> None:
    found = speedups({"attention": 6.0, "attention_frame_causal": 4.0, "m4v": 2.0})
    assert found == {"speedup_m4v_over_attention": 3.0, "speedup_m4v_over_attention_frame_causal": 2.0}


def test_figures_of_a_row() -> None:
    ms = {"ours": 0.5, "attention_cudnn": 4.0, "attention_flash": 6.0, "mamba_ssm_64": 1.1, "mamba_ssm_128": 1.0}
    add_fastest(ms)
    assert (ms["attention"], ms["mamba_ssm"]) == (4.0, 1.0)
    rates = Rates(4e12, 1e18)
    figures = row_figures(ms, PAPER, rates, is_section=True, with_backward=False)
    floor = floors.staged_bytes(PAPER) / 4e12 * 1e3
    assert figures["floor_ms"] == pytest.approx(floor)
    assert figures["floor_reached"] == pytest.approx(floor / 0.5)
    assert figures["fused_floor_reached"] == pytest.approx(floors.fused_bytes(PAPER) / 4e12 * 1e3 / 0.5)
    assert figures["speedup_over_attention"] == 8.0
    assert figures["speedup_over_mamba_ssm"] == 2.0
    assert figures["bound_over_mamba_ssm"] == pytest.approx(1.0 / floor)


def test_the_slowest_is_unknown_until_the_shortest_length_is_measured() -> None:
    long = {"length": 16384, "speedup_over_attention": 3.0}
    assert _slowest([long], 4096) is None
    assert _slowest([long, {"length": 4096, "speedup_over_attention": 0.9}], 4096) == 0.9
    assert _slowest([long, {"length": 2048, "speedup_over_attention": 0.5}], 4096) is None
