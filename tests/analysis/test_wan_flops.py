"""Analytic operation counts of the Wan denoiser against torch's counter, and against published sums."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from m4v.analysis.wan_flops import wan_call_flops, wan_grid
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import MixerConfig
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import PRESETS, WanConfig, WanRecompositionConfig, WanTemporalBranchConfig
from tests.analysis.counting import flops_of

SMALL = PRESETS["wan-debug"]
GRID, TEXT = (3, 4, 6), 10


def _counted(model: torch.nn.Module, config: WanConfig) -> int:
    frames, rows, columns = GRID
    latents = torch.zeros(1, config.in_channels, frames, 2 * rows, 2 * columns)
    return flops_of(lambda: model(latents, torch.zeros(1), torch.zeros(1, TEXT, config.text_dim)))


def test_attention_layers_cost_what_torch_counts_in_the_library_s_own_network() -> None:
    config = replace(SMALL, mixer_plan="attention-only")
    names = ("patch_size", "num_attention_heads", "attention_head_dim", "text_dim", "freq_dim", "ffn_dim", "num_layers")
    model = WanTransformer3DModel(**{name: getattr(config, name) for name in names})
    assert wan_call_flops(config, GRID, TEXT).total == _counted(model, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer_plan": "full"},
        {"mixer_plan": "interleaved", "text_path": "read-only"},
        {"mixer_plan": "full", "text_path": "none"},
        {"mixer_plan": "full", "temporal_branch": WanTemporalBranchConfig(enabled=False)},
        {"mixer_plan": "full", "temporal_branch": WanTemporalBranchConfig(mixer="ssd", causal=True)},
        {"mixer_plan": "full", "recomposition": WanRecompositionConfig(register_kinds="by-role")},
        {"mixer_plan": "full", "recomposition": WanRecompositionConfig(text_at_both_ends=False, registers=False)},
        {"mixer_plan": "full", "mixer": MixerConfig(chunk_size=16)},
    ],
    ids=str,
)
def test_every_switch_costs_what_torch_counts(changes: dict[str, object]) -> None:
    """Exactly: the convolution of an MM-DiM mixer is a sum of shifted products, which neither side counts."""
    config = replace(SMALL, **changes)
    model = WanM4VTransformer3DModel(**to_plain(config))
    assert wan_call_flops(config, GRID, TEXT).total == _counted(model, config)


SIZES = {"480p": (21, 30, 52), "720p": (21, 45, 80)}


@pytest.mark.parametrize(
    ("name", "size", "tokens", "tflops"),
    [
        ("wan-1.3b", "480p", 32_760, 283.0),
        ("wan-1.3b", "720p", 75_600, 1249.8),
        ("wan-14b", "480p", 32_760, 1678.4),
        ("wan-14b", "720p", 75_600, 6523.4),
    ],
)
def test_published_sizes(name: str, size: str, tokens: int, tflops: float) -> None:
    frames, rows, columns = SIZES[size]
    assert frames * rows * columns == tokens
    cost = wan_call_flops(replace(PRESETS[name], mixer_plan="attention-only"), SIZES[size], 512)
    assert cost.total / 1e12 == pytest.approx(tflops, abs=0.06)


@pytest.mark.parametrize(
    ("name", "size", "tflops"), [("wan-1.3b", "480p", 101.5), ("wan-1.3b", "720p", 233.9), ("wan-14b", "720p", 2341.2)]
)
def test_mixers_in_place_of_attention(name: str, size: str, tflops: float) -> None:
    """A sum made by hand for chunks of 256 without the gate; text passes through the projections here as well."""
    config = replace(PRESETS[name], mixer_plan="full", mixer=MixerConfig(chunk_size=256))
    frames, rows, columns = SIZES[size]
    tokens = frames * rows * columns
    gate = 2 * (tokens + 512) * config.width**2 * config.num_layers
    text = 8 * 512 * config.width**2 * config.num_layers
    cost = wan_call_flops(config, SIZES[size], 512).total - gate - text
    assert cost / 1e12 == pytest.approx(tflops, rel=3e-3)


def test_a_clip_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(UserError, match="Latents have 61 rows"):
        wan_grid(PRESETS["wan-14b"], LatentShape(num_units=21, height=61, width=104))
