"""The temporal branch against loops over frames, cells and heads; its start, its size, its edges."""

import math

import pytest
import torch
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.temporal_branch import TemporalBranch
from m4v.models.denoiser.time_plan import time_plan
from m4v.ops.cell_pooling.pooling import pool, spread
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
from tests.ops.recurrences import ssd_recurrence

COARSE = (1, 2)


def _cells(video: Tensor, layout: SequenceLayout, frame: int) -> dict[tuple[int, int], Tensor]:
    """Tokens of one frame by (row, column)."""
    grid, start = layout.frames[frame], layout.frame_starts[frame]
    return {divmod(i, grid.width): video[:, start + i] for i in range(grid.num_tokens)}


def _slow_time_tokens(
    video: Tensor, layout: SequenceLayout
) -> tuple[list[Tensor], list[int], list[tuple[int, int, int]]]:
    """Time tokens, when each is, and (frame, row phase, column phase) of each."""
    height, width = COARSE
    tokens, when, what = [], [], []
    for number, frame in enumerate(layout.frames):
        cells, k = _cells(video, layout, number), frame.height // height
        phases = [(i, j) for i in range(k) for j in range(k)]
        by_phase = [
            torch.stack([cells[k * row + i, k * column + j] for row in range(height) for column in range(width)], dim=1)
            for i, j in phases
        ]
        if number < layout.num_history_frames:
            tokens.append(sum(by_phase) / len(by_phase))
            when.append(number)
            what.append((number, 0, 0))
        else:
            tokens += by_phase
            when += [layout.num_history_frames] * len(by_phase)
            what += [(number, i, j) for i, j in phases]
    return tokens, when, what


def _slow_branch(branch: TemporalBranch, video: Tensor, layout: SequenceLayout, mixer: str) -> Tensor:
    """The branch's residual, before the gate, cell by cell."""
    heads, eps = branch.num_heads, 1e-6
    times, when, what = _slow_time_tokens(video, layout)

    def project(linear: nn.Linear, norm: Tensor | None) -> list[Tensor]:
        projected = []
        for token in times:  # b s d -> b s g p
            y = (token @ linear.weight.T + linear.bias).unflatten(-1, (heads, -1))
            if norm is not None:
                y = y / (y.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm
            projected.append(y)
        return projected

    query = project(branch.to_q, branch.norm_q.weight)
    key = project(branch.to_k, branch.norm_k.weight)
    value = project(branch.to_v, None)
    positions, head_dim = query[0].shape[1], query[0].shape[3]
    scale = 1 / math.sqrt(positions * head_dim)
    if mixer == "ssd":
        joined = [torch.stack(t, dim=1).transpose(2, 3).flatten(3) for t in (value, key, query)]  # b f g (s p)
        x, B, C = joined
        step = nn.functional.softplus(branch.dt_bias).expand(*x.shape[:3])
        y, _ = ssd_recurrence(x, step, -branch.A_log.exp(), B, C * scale)
        mixed = [y[:, f].unflatten(-1, (positions, head_dim)).transpose(1, 2) for f in range(len(times))]
    else:
        mixed = []
        for f, time in enumerate(when):
            seen = [m for m in range(len(times)) if when[m] <= time]
            scores = torch.stack([(query[f] * key[m]).sum((1, 3)) * scale for m in seen])  # seen b g
            weights = scores.softmax(0)
            mixed.append(sum(weights[i][:, None, :, None] * value[m] for i, m in enumerate(seen)))
    out = video.new_zeros(video.shape)
    for token, (frame, i, j) in zip(mixed, what, strict=True):
        grid, start = layout.frames[frame], layout.frame_starts[frame]
        k = grid.height // COARSE[0]
        rows = token.flatten(2)  # b s d
        for cell in range(grid.num_tokens):
            row, column = divmod(cell, grid.width)
            is_mine = frame < layout.num_history_frames or (row % k, column % k) == (i, j)
            if is_mine:
                out[:, start + cell] = rows[:, row // k * COARSE[1] + column // k]
    return out


LAYOUTS = {
    "history and noisy": (0, 0, 1, 2),
    "image": (2,),
    "coarsest image": (0,),
    "coarsest with history": (0, 0, 0),
}


@pytest.mark.parametrize("levels", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("mixer", ["attention", "ssd"])
def test_equals_the_loops(mixer: str, levels: tuple[int, ...]) -> None:
    config = denoiser_config(debug_arguments(temporal_branch={"mixer": mixer}))
    layout = layout_of(history_and_noisy(levels))
    branch = TemporalBranch(config).double()
    randomise(branch)
    context = sequence_context(config, layout, normal(2, config.width), prompts().mask)
    shape = (2, NUM_TEXT + layout.num_video_tokens, config.width)
    tokens, modulated = normal(*shape), normal(*shape, seed=1)
    with torch.no_grad():
        video = tokens[:, NUM_TEXT:] + branch.gate * _slow_branch(branch, modulated[:, NUM_TEXT:], layout, mixer)
        out = branch(tokens, modulated, context)
    assert_relative_close(out, torch.cat([tokens[:, :NUM_TEXT], video], dim=1), 1e-12)


def test_starts_as_the_identity() -> None:
    config = denoiser_config(debug_arguments())
    layout = layout_of(history_and_noisy())
    context = sequence_context(config, layout, normal(2, config.width).float(), prompts().mask)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width).float()
    branch = TemporalBranch(config)
    out = branch(tokens, tokens, context)
    assert torch.equal(out, tokens)
    out.square().sum().backward()
    assert branch.gate.grad is not None
    assert branch.gate.grad.abs().min() > 0  # and can leave it


def test_noisy_frames_survive_the_round_trip_and_history_is_pooled() -> None:
    clips = [*history_and_noisy((0, 1, 2)), LevelClip(normal(2, 4, 2, 4, 8), 2)]
    layout = layout_of(clips, num_text=0)
    video = normal(2, layout.num_video_tokens, 3)
    plan = time_plan(layout, video.device)
    assert plan.cells is not None
    cells = pool(video, plan.cells)
    times = cells.unflatten(1, (len(plan.times), -1))
    assert times.shape == (2, 3 + 2 * 16, COARSE[0] * COARSE[1], 3)
    expected, _, _ = _slow_time_tokens(video, layout)
    assert_relative_close(times, torch.stack(expected, dim=1), 1e-14)
    back = spread(cells, plan.cells)
    noisy = slice(layout.num_history_tokens, None)
    assert torch.equal(back[:, noisy], video[:, noisy])
    for frame in range(3):
        tokens, returned = _cells(video, layout, frame), _cells(back, layout, frame)
        k = layout.frames[frame].height // COARSE[0]
        for row, column in tokens:
            block = [tokens[i, j] for i, j in tokens if (i // k, j // k) == (row // k, column // k)]
            assert_relative_close(returned[row, column], sum(block) / len(block), 1e-14)


def test_a_picture_smaller_than_the_pyramid_counts_as_coarse() -> None:
    layout = SequenceLayout((FrameGrid(2, 3, 3),), 0)
    plan = time_plan(layout, torch.device("cpu"))
    assert plan.times.tolist() == [0]
    assert plan.cells is None  # tokens are the cells as they stand


def test_pooling_and_spreading_have_the_gradients_of_what_they_compute() -> None:
    layout = layout_of(history_and_noisy((1, 2, 0, 2)), num_text=0)
    index = time_plan(layout, torch.device("cpu")).cells
    assert index is not None
    rows = normal(2, layout.num_video_tokens, 2).requires_grad_()
    cells = normal(2, len(index.first), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: pool(t, index), rows)
    assert torch.autograd.gradcheck(lambda t: spread(t, index), cells)


def test_parameter_count() -> None:
    """Three projections with bias and two norms, as Table 4 implies, and a gate; no output matrix."""
    config = denoiser_config(debug_arguments())
    width, head_dim = config.width, config.attention_head_dim
    count = sum(parameter.numel() for parameter in TemporalBranch(config).parameters())
    assert count == 3 * width**2 + 3 * width + 2 * head_dim + width
