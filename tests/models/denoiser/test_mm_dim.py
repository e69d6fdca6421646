"""The MM-DiM mixer against its definition: re-composed with lists, convolved and scanned token by token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, denoiser_config
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.mixers.parallel import ParallelMixer
from m4v.ops.ssd.reference import SSDOutput, ssd
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import (
    NUM_TEXT,
    debug_arguments,
    history_and_noisy,
    layout_of,
    normal,
    prompts,
    randomise,
)
from tests.models.denoiser.slow_recomposition import invert_slowly, recompose_slowly, scan_rows
from tests.ops.recurrences import conv_recurrence, gated_norm_formula, ssd_recurrence

LENGTHS = (3, NUM_TEXT, 0)


def _rotated(x: Tensor, layout: SequenceLayout, sequence: list[Any], axes: tuple[int, ...]) -> Tensor:
    """Turn each scan position's heads by its token's own position; text and registers stay."""
    base = layout.frames[-1]
    rows = []
    for at, row in enumerate(sequence):
        position = (0.0, 0.0, 0.0)
        if row.kind == "video":
            frame = max(f for f in range(len(layout.frames)) if layout.frame_starts[f] <= row.number)
            grid = layout.frames[frame]
            i, j = divmod(row.number - layout.frame_starts[frame], grid.width)
            scale = base.height / grid.height
            position = (float(frame), (i + 0.5) * scale - 0.5, (j + 0.5) * scale - 0.5)
        turns = [position[axis] * 10000 ** (-2 * k / dim) for axis, dim in enumerate(axes) for k in range(dim // 2)]
        turn = torch.polar(torch.ones(len(turns), dtype=torch.float64), torch.tensor(turns, dtype=torch.float64))
        pairs = torch.view_as_complex(x[at].unflatten(-1, (-1, 2)).contiguous())
        rows.append(torch.view_as_real(pairs * turn).flatten(-2))
    return torch.stack(rows)


def _plain_mixer(mixer: MMDiMMixer, config: DenoiserConfig, tokens: Tensor, layout: SequenceLayout) -> Tensor:
    """What the mixer's docstrings say, one sample at a time, with the mixer's own weights."""
    weights = dict(mixer.state_dict())
    heads, width = config.num_attention_heads, config.width
    state = heads * (config.mixer.state_dim or config.attention_head_dim)
    if config.mixer.positions == "added":
        # Its table has a test of its own; here it only has to be added.
        context = sequence_context(config, layout, tokens[:, 0], prompts(LENGTHS).mask)
        assert context.added_positions is not None
        tokens = tokens + context.added_positions
    registers = weights.get("registers.rows", tokens.new_zeros(0, width))
    outputs = []
    for sample, length in enumerate(LENGTHS):
        options = config.recomposition
        sequence, _ = scan_rows(
            layout, config.scan_path(0), length, options.text_at_both_ends, options.registers, options.continuous
        )
        rows = recompose_slowly(tokens[sample : sample + 1], registers, [sequence], NUM_TEXT)
        projected = rows @ weights["in_proj.weight"].T + weights["in_proj.bias"]
        dt = rows @ weights["dt_proj.weight"].T + weights["dt_proj.bias"]
        real = torch.tensor([row.is_real for row in sequence]).double()[None, :, None]
        z, xbc = projected.split([width, width + 2 * state], dim=-1)
        if config.mixer.conv_width:
            pre = conv_recurrence(xbc * real, weights["conv_weight"], weights["conv_bias"])
            xbc = pre / (1 + torch.exp(-pre)) if config.mixer.conv_activation == "silu" else pre
        x, B, C = (part.unflatten(-1, (heads, -1)) for part in xbc.split([width, state, state], dim=-1))
        if config.mixer.qk_norm:
            B, C = (
                part / (part.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[name]
                for part, name in ((B, "norm_b"), (C, "norm_c"))
            )
        if config.mixer.positions == "rope":
            B, C = (_rotated(part[0], layout, sequence, config.rope_axes_dims)[None] for part in (B, C))
        step = torch.log1p(torch.exp(dt + weights["dt_bias"])) * real
        y, _ = ssd_recurrence(
            x, step, -weights["A_log"].exp(), B, C, weights["D_skip"], discretisation=config.mixer.discretisation
        )
        normed = gated_norm_formula(y, z.unflatten(-1, (heads, -1)), weights["norm_weight"])
        outputs.append(invert_slowly(normed.flatten(2), [sequence], NUM_TEXT, tokens.shape[1]))
    return torch.cat(outputs)


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "path e": {"recomposition": {"scan_paths": "e"}},
    "raster path g": {"recomposition": {"scan_paths": "g", "continuous": False}},
    "text once": {"recomposition": {"text_at_both_ends": False}},
    "no registers": {"recomposition": {"registers": False}},
    "no conv": {"mixer": {"conv_width": 0}},
    "short conv": {"mixer": {"conv_width": 2}},
    "conv without SiLU": {"mixer": {"conv_activation": "none"}},
    "no norm on B and C": {"mixer": {"qk_norm": False}},
    "zero-order hold": {"mixer": {"discretisation": "zoh"}},
    "no positions": {"mixer": {"positions": "none"}},
    "wider state": {"mixer": {"positions": "none", "state_dim": 12}},
    "added positions": {"mixer": {"positions": "added"}},
    "small chunks": {"mixer": {"chunk_size": 7}},
}


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_equals_its_definition(changes: dict[str, Any]) -> None:
    config = denoiser_config(debug_arguments(**changes))
    layout = layout_of(history_and_noisy((0, 1, 2)))
    mixer = MMDiMMixer(config).double()
    randomise(mixer)
    tokens = normal(len(LENGTHS), NUM_TEXT + layout.num_video_tokens, config.width)
    context = sequence_context(config, layout, normal(len(LENGTHS), config.width), prompts(LENGTHS).mask)
    context = context.along(config.scan_path(0))
    with torch.no_grad():
        mixed, expected = mixer(tokens, context), _plain_mixer(mixer, config, tokens, layout)
    # Rotation tables are single precision.
    assert_relative_close(mixed, expected, 1e-6 if config.mixer.positions == "rope" else 1e-12)


def test_parallel_is_the_sum_of_both() -> None:
    config = denoiser_config(debug_arguments())
    layout = layout_of(history_and_noisy())
    parallel = ParallelMixer(config).double()
    randomise(parallel)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width)
    context = sequence_context(config, layout, normal(2, config.width), prompts().mask).along("a")
    attention, mm_dim = AttentionMixer(config).double(), MMDiMMixer(config).double()
    attention.load_state_dict(parallel.attention.state_dict())
    mm_dim.load_state_dict(parallel.mm_dim.state_dict())
    expected = attention(tokens, context) + mm_dim(tokens, context)
    assert torch.equal(parallel(tokens, context), expected)


def test_a_half_precision_model_still_steps_and_decays_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(x: Tensor, dt: Tensor, A: Tensor, *others: Any, **options: Any) -> SSDOutput:
        seen.extend((x.dtype, dt.dtype, A.dtype))
        return ssd(x, dt, A, *others, **options)

    monkeypatch.setattr("m4v.ops.scan_section.reference.ssd", spy)
    config = denoiser_config(debug_arguments())
    layout = layout_of(history_and_noisy())
    mixer = MMDiMMixer(config).to(torch.bfloat16)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width).bfloat16()
    mixer(tokens, sequence_context(config, layout, tokens[:, 0], prompts().mask).along("a"))
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_starts_with_mamba_2_ranges() -> None:
    config = denoiser_config(debug_arguments(num_attention_heads=64))
    mixer = MMDiMMixer(config)
    assert mixer.A_log.exp().min() >= 1
    assert mixer.A_log.exp().max() <= 16
    step = torch.nn.functional.softplus(mixer.dt_bias)
    assert step.min() >= 0.99e-3
    assert step.max() <= 1.01e-1
    assert step.max() / step.min() > 10  # spread over the range, not bunched
    assert torch.equal(mixer.D_skip, torch.ones(64))
    assert mixer.registers.rows.std() < 0.03
