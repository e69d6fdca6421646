"""Counts of tokens and operations against figures worked out elsewhere."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from m4v.analysis.description import describe
from m4v.analysis.flops import attention_flops, call_flops
from m4v.analysis.tokens import tokens_by_unit, unit_layout
from m4v.core.config_io import to_plain
from m4v.core.level_clip import LevelClip
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.config import PRESETS
from m4v.models.denoiser.pyramid import M4VTransformer3DModel

PAPER_SIZE = Compression(time=8, space=8).latent_shape(VideoShape(num_frames=241, height=768, width=1280))


def test_tokens_of_the_paper_s_longest_video() -> None:
    """Rows of the Pyramid-Flow table at 768p: noisy + history + 128 text tokens."""
    tokens = tokens_by_unit(PRESETS["pyramid-2b"], PAPER_SIZE, 128)
    assert tokens[0] == [368, 1088, 3968]
    assert tokens[7] == [240 + 1680 + 128, 960 + 2400 + 128, 9968]
    assert tokens[30] == [240 + 7200 + 128, 960 + 7920 + 128, 15488]
    assert [sum(column) for column in zip(*tokens, strict=True)] == [123_008, 166_928, 363_488]


def test_a_window_keeps_only_the_last_units() -> None:
    layout = unit_layout(PRESETS["toybox-xs"], LatentShape(num_units=9, height=8, width=8), 8, 2, 0, window=2)
    assert [frame.num_tokens for frame in layout.frames] == [16, 64, 64]


def test_attention_of_the_last_unit_is_what_table_4_prints() -> None:
    """33.84 TFLOPs in 24 layers: 11,760 tokens without text."""
    assert 24 * attention_flops(11_760, 1920) / 1e12 == pytest.approx(33.84, rel=2e-3)


def test_a_call_costs_what_torch_counts() -> None:
    """Matrix products of the real network, counted by torch, for attention only, where both count the same things."""
    config = replace(PRESETS["toybox-xs"], mixer_plan="attention-only")
    layout = unit_layout(config, LatentShape(num_units=3, height=8, width=8), 2, 2, 24)
    model = M4VTransformer3DModel(**to_plain(config))
    sides = {4: 2, 16: 4, 64: 8}
    clips = [
        LevelClip(torch.zeros(1, 16, 1, sides[frame.num_tokens], sides[frame.num_tokens]), frame.level)
        for frame in layout.frames
    ]
    text = TextConditioning(torch.zeros(1, 24, 128), torch.ones(1, 24, dtype=torch.bool), torch.zeros(1, 128))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clips, torch.zeros(1), text)
    num_tokens = layout.num_text_tokens + layout.num_video_tokens
    # Torch does not count the CPU's fused attention: scores and values are added by the formula.
    counted = counter.get_total_flops() + 4 * num_tokens**2 * config.width * 6
    assert call_flops(config, layout).total == pytest.approx(counted, rel=1e-3)


def test_description_adds_up() -> None:
    config = PRESETS["toybox-xs"]
    description = describe(
        config, LatentShape(num_units=5, height=8, width=8), num_text_tokens=32, dtype="bfloat16", batch_size=2
    )
    counts = description.parameters
    assert counts.total == counts.embedders + counts.dual_blocks + counts.single_blocks + counts.head
    assert description.memory_bytes["weights"] == 2 * counts.total
    assert len(description.tokens) == len(description.flops) == 5
    assert description.flops[4][2] > description.flops[0][0] > 0
