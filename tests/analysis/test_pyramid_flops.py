"""Analytic operation counts of the pyramid denoiser against torch's counter, and against published sums."""

from dataclasses import replace

import pytest
import torch

from m4v.analysis.denoising_memory import pyramid_inputs
from m4v.analysis.flops import call_flops, layer_mixer_flops, video_flops
from m4v.analysis.mixer_flops import ssd_flops
from m4v.analysis.tokens import unit_layout
from m4v.core.config_io import to_plain
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.models.denoiser.config import (
    PRESETS,
    DenoiserConfig,
    MixerConfig,
    RecompositionConfig,
    TemporalBranchConfig,
)
from m4v.models.denoiser.mixer_plan import PLAN_NAMES
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.analysis.counting import flops_of

SMALL = PRESETS["toybox-xs"]
LATENT = LatentShape(num_units=3, height=8, width=8)


def _counted(config: DenoiserConfig, layout: SequenceLayout) -> int:
    model = M4VTransformer3DModel(**to_plain(config))
    inputs = pyramid_inputs(config, layout, 1, torch.float32, "cpu")
    return flops_of(lambda: model(*inputs))


@pytest.mark.parametrize("plan", PLAN_NAMES)
def test_a_call_costs_what_torch_counts(plan: str) -> None:
    """Exactly: the convolution of an MM-DiM mixer is a sum of shifted products, which neither side counts."""
    config = replace(SMALL, mixer_plan=plan)
    layout = unit_layout(config, LATENT, 2, 2, 24)
    assert call_flops(config, layout).total == _counted(config, layout)


@pytest.mark.parametrize(
    "changes",
    [
        {"temporal_branch": TemporalBranchConfig(enabled=False)},
        {"temporal_branch": TemporalBranchConfig(mixer="ssd")},
        {"recomposition": RecompositionConfig(text_at_both_ends=False, registers=False)},
        {"mixer": MixerConfig(state_dim=16, positions="none", chunk_size=48)},
        {"patch_size": 2},
        {"dual_mixer": "mm_dim"},
        {"dual_mixer": "mm_dim", "recomposition": RecompositionConfig(registers=False), "mixer_plan": "attention-only"},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize(("unit", "level"), [(0, 0), (1, 1)])
def test_every_switch_is_counted(changes: dict[str, object], unit: int, level: int) -> None:
    config = replace(SMALL, **changes)
    layout = unit_layout(config, LATENT, unit, level, 24)
    assert call_flops(config, layout).total == _counted(config, layout)


def test_a_scan_costs_per_token_and_head_what_mamba_2_states() -> None:
    """2Q(N + P) + 4NP: 0.98, 1.47 and 2.46 MFLOP for 30 heads of 64 and chunks of 64, 128 and 256."""
    per_token = [ssd_flops(2560, 30, 64, 64, chunk) / 2560 / 1e6 for chunk in (64, 128, 256)]
    assert per_token == pytest.approx([0.98, 1.47, 2.46], abs=0.005)


def test_the_last_chunk_is_computed_whole() -> None:
    assert ssd_flops(65, 2, 8, 8, 64) == ssd_flops(128, 2, 8, 8, 64)
    assert ssd_flops(5, 2, 8, 8, 64) == 5 * 2 * (2 * 5 * 16 + 4 * 64)


def _paper_size(num_frames: int, height: int, width: int) -> LatentShape:
    return Compression(time=8, space=8).latent_shape(VideoShape(num_frames=num_frames, height=height, width=width))


@pytest.mark.parametrize(
    ("size", "total", "mixers"),
    [((121, 768, 1280), 17.9, 10.7), ((241, 768, 1280), 50.7, 32.0), ((121, 384, 640), 3.4, 1.5)],
)
def test_whole_videos_of_the_attention_base(size: tuple[int, int, int], total: float, mixers: float) -> None:
    """PFLOP with guidance, 20 steps per level for the first unit and 10 for the others."""
    config = replace(PRESETS["pyramid-2b"], mixer_plan="attention-only")
    cost = video_flops(
        config, _paper_size(*size), num_text_tokens=128, first_steps=(20, 20, 20), later_steps=(10, 10, 10)
    )
    assert cost.total / 1e15 == pytest.approx(total, abs=0.06)
    assert cost.mixers / 1e15 == pytest.approx(mixers, abs=0.06)


def test_guidance_doubles_a_video() -> None:
    arguments = {"num_text_tokens": 24, "first_steps": (4, 4, 4), "later_steps": (3, 3, 3)}
    plain = video_flops(SMALL, LATENT, **arguments, rows_per_call=1)
    assert video_flops(SMALL, LATENT, **arguments).total == 2 * plain.total


@pytest.mark.parametrize("kind", ["attention", "mm_dim", "parallel"])
def test_plans_only_exchange_whole_layers(kind: str) -> None:
    """The sum of a plan is layers times the cost of one, as in the paper's table."""
    config = replace(SMALL, mixer_plan=(kind,) * SMALL.num_single_layers)
    layout = unit_layout(config, LATENT, 2, 2, 24)
    layer = layer_mixer_flops(config, layout)
    expected = config.num_dual_layers * layer.attention + config.num_single_layers * layer.of_kind(kind, True)
    assert call_flops(config, layout).mixers == expected
