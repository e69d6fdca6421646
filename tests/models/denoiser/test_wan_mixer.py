"""The mixer and the temporal branch of the Wan base against their definitions, written with lists and loops."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m4v.models.denoiser.mixers.wan_mm_dim import WanMMDiMMixer
from m4v.models.denoiser.wan_config import WanConfig, wan_config, wan_preset
from m4v.models.denoiser.wan_context import WanContext, wan_context
from m4v.models.denoiser.wan_temporal_branch import WanTemporalBranch
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import normal, randomise
from tests.models.denoiser.slow_recomposition import Row, invert_slowly, recompose_slowly, walk
from tests.ops.recurrences import conv_recurrence, gated_norm_formula, ssd_recurrence

NUM_TEXT = 5
LENGTHS = (3, NUM_TEXT, 0)
GRID = (3, 2, 4)  # token frames, rows, columns
NUM_VIDEO = math.prod(GRID)


def _config(**changes: Any) -> WanConfig:
    arguments = wan_preset("wan-debug") | {"mixer_plan": "full"}
    for name, value in changes.items():
        arguments[name] = arguments[name] | value if isinstance(value, dict) else value
    return wan_config(arguments)


def _context(config: WanConfig, num_text: int = NUM_TEXT) -> WanContext:
    context = wan_context(config, GRID, torch.arange(num_text) < torch.tensor(LENGTHS)[:, None])
    return context.along(config.recomposition.scan_path(0))


def _sequence(config: WanConfig, letter: str, length: int) -> list[Row]:
    """Text, then every frame after its register in one walk, then text; padding outermost."""
    options, (frames, height, width) = config.recomposition, GRID
    real = [Row("text", token) for token in range(length)]
    padding = [Row("text", token, is_real=False) for token in range(length, NUM_TEXT)]
    reads_text = config.text_path != "none"
    sequence = padding + real if reads_text else []
    for frame in range(frames):
        if options.registers:
            role = {0: 0, frames - 1: 2}.get(frame, 1)
            sequence.append(Row("register", role if options.register_kinds == "by-role" else 0))
        for row, column in walk(letter, height, width, options.continuous):
            sequence.append(Row("video", frame * height * width + row * width + column))
    return sequence + (real + padding if reads_text and options.text_at_both_ends else [])


def _place(token: int) -> tuple[int, int, int]:
    frame, cell = divmod(token, GRID[1] * GRID[2])
    return (frame, *divmod(cell, GRID[2]))


def _rotated(heads: Tensor, place: tuple[int, ...], axes: tuple[int, int, int]) -> Tensor:
    """Turn the channel pairs of `g p` heads: time pairs by frame, then row pairs, then column pairs."""
    turns = [at * 10000 ** (-2 * k / dim) for at, dim in zip(place, axes, strict=True) for k in range(dim // 2)]
    even, odd = heads[:, 0::2], heads[:, 1::2]
    cos, sin = (torch.tensor([f(turn) for turn in turns], dtype=torch.float64) for f in (math.cos, math.sin))
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(1)


def _rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _plain_mixer(mixer: WanMMDiMMixer, config: WanConfig, tokens: Tensor) -> Tensor:
    """What the docstrings say, one sample at a time, with the mixer's own weights."""
    weights = dict(mixer.state_dict())
    heads, width = config.num_attention_heads, config.width
    num_text = tokens.shape[1] - NUM_VIDEO

    def linear(name: str, rows: Tensor) -> Tensor:
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    outputs = []
    for sample, length in enumerate(LENGTHS):
        sequence = _sequence(config, config.recomposition.scan_path(0), length)
        registers = weights.get("registers.rows", tokens.new_zeros(0, width))
        rows = recompose_slowly(tokens[sample : sample + 1], registers, [sequence], num_text)
        x, B, C = linear("to_v", rows), linear("to_k", rows), linear("to_q", rows)
        if config.mixer.qk_norm:  # over all heads, before the convolution
            B, C = _rms(B, weights["norm_k.weight"]), _rms(C, weights["norm_q.weight"])
        real = torch.tensor([row.is_real for row in sequence]).double()[None, :, None]
        xbc = torch.cat([x, B, C], dim=-1)
        if config.mixer.conv_width:
            pre = conv_recurrence(xbc * real, weights["conv_weight"], weights["conv_bias"])
            xbc = pre / (1 + torch.exp(-pre)) if config.mixer.conv_activation == "silu" else pre
        x, B, C = (part.unflatten(-1, (heads, -1)) for part in xbc.split([width, B.shape[-1], C.shape[-1]], dim=-1))
        if config.mixer.positions == "rope":
            places = [_place(row.number) if row.kind == "video" else (0, 0, 0) for row in sequence]
            B, C = (
                torch.stack([_rotated(part[0, i], place, config.rope_axes_dims) for i, place in enumerate(places)])[
                    None
                ]
                for part in (B, C)
            )
        step = torch.log1p(torch.exp(linear("to_dt", rows) + weights["dt_bias"])) * real
        y, _ = ssd_recurrence(
            x, step, -weights["A_log"].exp(), B, C, weights["D_skip"], discretisation=config.mixer.discretisation
        )
        normed = gated_norm_formula(y, linear("to_z", rows).unflatten(-1, (heads, -1)), weights["norm_weight"])
        outputs.append(invert_slowly(normed.flatten(2), [sequence], num_text, tokens.shape[1]))
    return linear("to_out.0", torch.cat(outputs))


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "path g": {"recomposition": {"scan_paths": "g"}},
    "raster path d": {"recomposition": {"scan_paths": "d", "continuous": False}},
    "registers by role": {"recomposition": {"register_kinds": "by-role"}},
    "no registers": {"recomposition": {"registers": False}},
    "text once": {"recomposition": {"text_at_both_ends": False}},
    "video alone": {"text_path": "none"},
    "no conv": {"mixer": {"conv_width": 0}},
    "conv without SiLU": {"mixer": {"conv_activation": "none"}},
    "no norm on B and C": {"mixer": {"qk_norm": False}},
    "no positions": {"mixer": {"positions": "none"}},
    "wider state": {"mixer": {"positions": "none", "state_dim": 16}},
    "zero-order hold": {"mixer": {"discretisation": "zoh"}},
}


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_mixer_equals_its_definition(changes: dict[str, Any]) -> None:
    config = _config(**changes)
    mixer = WanMMDiMMixer(config).double()
    randomise(mixer)
    num_text = 0 if config.text_path == "none" else NUM_TEXT
    tokens = normal(len(LENGTHS), num_text + NUM_VIDEO, config.width)
    with torch.no_grad():
        mixed, expected = mixer(tokens, _context(config)), _plain_mixer(mixer, config, tokens)
    # Rotation tables are single precision.
    assert_relative_close(mixed, expected, 1e-6 if config.mixer.positions == "rope" else 1e-12)


def test_padding_says_nothing_in_the_scan() -> None:
    config = _config()
    mixer = WanMMDiMMixer(config).double()
    randomise(mixer)
    tokens = normal(len(LENGTHS), NUM_TEXT + NUM_VIDEO, config.width)
    is_real = torch.cat(
        [torch.arange(NUM_TEXT) < torch.tensor(LENGTHS)[:, None], torch.ones(len(LENGTHS), NUM_VIDEO).bool()], dim=1
    )[..., None]
    rubbish = torch.where(is_real, tokens, 1000 * normal(*tokens.shape, seed=9))
    with torch.no_grad():
        mixed, others = mixer(tokens, _context(config)), mixer(rubbish, _context(config))
    assert torch.equal(mixed * is_real, others * is_real)


def test_mixer_keeps_the_names_of_attention() -> None:
    names = set(WanMMDiMMixer(_config()).state_dict())
    attention = {f"{part}.{what}" for part in ("to_q", "to_k", "to_v", "to_out.0") for what in ("weight", "bias")}
    new = {f"{part}.{what}" for part in ("to_z", "to_dt") for what in ("weight", "bias")}
    own = {"conv_weight", "conv_bias", "A_log", "D_skip", "dt_bias", "norm_weight", "registers.rows"}
    assert names == attention | {"norm_q.weight", "norm_k.weight"} | new | own


def _plain_branch(branch: WanTemporalBranch, config: WanConfig, video: Tensor, causal: bool) -> Tensor:
    """Frames attend to frames; a score sums over cells, whose products only know how far apart in time they are."""
    frames, height, width = GRID
    cells, heads = height * width, config.num_attention_heads

    def project(linear: nn.Linear, norm: Tensor | None) -> Tensor:
        y = video @ linear.weight.T + linear.bias
        y = y if norm is None else _rms(y, norm)
        return y.unflatten(-1, (heads, -1)).unflatten(1, (frames, cells))  # b f s g p

    query, key = project(branch.to_q, branch.norm_q.weight), project(branch.to_k, branch.norm_k.weight)
    value = project(branch.to_v, None)
    scale = 1 / math.sqrt(cells * config.attention_head_dim)
    out = torch.zeros_like(value)
    for sample in range(video.shape[0]):
        for f in range(frames):
            seen = range(f + 1) if causal else range(frames)
            scores = []
            for m in seen:
                turned = torch.stack(
                    [_rotated(query[sample, f, s], (f - m, 0, 0), config.rope_axes_dims) for s in range(cells)]
                )
                scores.append((turned * key[sample, m]).sum((0, 2)) * scale)  # g
            share = torch.stack(scores).softmax(0)
            out[sample, f] = sum(share[i][:, None] * value[sample, m] for i, m in enumerate(seen))
    return branch.gate * out.flatten(3).flatten(1, 2)


@pytest.mark.parametrize("num_text", [0, NUM_TEXT])
@pytest.mark.parametrize("causal", [False, True])
def test_temporal_branch_equals_its_definition(causal: bool, num_text: int) -> None:
    config = _config(temporal_branch={"causal": causal})
    branch = WanTemporalBranch(config).double()
    randomise(branch)
    video = normal(2, NUM_VIDEO, config.width)
    context = _context(config, num_text)
    with torch.no_grad():
        residual = branch(video, context)
        expected = _plain_branch(branch, config, video, causal)
    assert_relative_close(residual, expected, 1e-6)


def test_temporal_branch_starts_at_nothing_and_can_leave_it() -> None:
    config = _config()
    branch = WanTemporalBranch(config)
    residual = branch(normal(2, NUM_VIDEO, config.width).float(), _context(config))
    assert not residual.any()
    residual.sum().backward()
    assert branch.gate.grad is not None
    assert branch.gate.grad.abs().min() > 0
