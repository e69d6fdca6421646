"""The temporal branch's view of a layout, as data: which video tokens make which time token (Sec. 3.3).

History frames are averaged down to the coarsest grid; the noisy frame is cut into phases of that grid (every K-th row
and column), so that nothing of it is lost. Each becomes one time token. Like the re-composition plan this is index
data, built once per layout: a block compiled for one layout serves all.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.ops.cell_pooling.pooling import CellIndex
from m4v.ops.context_parallel.exchange import RankGroup
from m4v.ops.context_parallel.heads import HeadExchange, HeadSharing, Unshared


@dataclass(frozen=True)
class TimePlan:
    """Time tokens of one layout; a cell is one position of a time token, and time tokens lie one after another.

    Attributes:
        times: When each time token is: its frame, and for all noisy ones the first noisy frame.
        causal_mask: True where time token (row) may see time token (column).
        cells: Video tokens of each cell; None where the video tokens are the cells as they stand.
        sharing: How cells of all times meet, if ranks hold some of them each.
    """

    times: Int[Tensor, "f"]
    causal_mask: Bool[Tensor, "f f"]
    cells: CellIndex | None
    sharing: HeadSharing = field(default_factory=Unshared)


def coarsest_grid(layout: SequenceLayout) -> tuple[int, int]:
    """Rows and columns of the coarsest level, derived from the last frame's level (each level doubles a side).

    A grid that the coarsest level does not divide (a clip smaller than the pyramid) is taken as coarse already.
    """
    last = layout.frames[-1]
    factor = 2**last.level
    if last.height % factor or last.width % factor:
        factor = 1
    return last.height // factor, last.width // factor


@lru_cache(maxsize=1024)
def time_plan(layout: SequenceLayout, device: torch.device, *, noisy_is_one_time: bool = True) -> TimePlan:
    """Build (or recall) the plan of a layout.

    Args:
        noisy_is_one_time: All noisy frames see each other, as one time; else each is a time of its own.

    Source: Sec. 3.3 "Temporal Branch".
    """
    frames = _time_frames(layout, noisy_is_one_time)
    when = _times(frames, device)
    return TimePlan(when, when[:, None] >= when[None, :], _cell_index([frame.cells for frame in frames], device))


@lru_cache(maxsize=1024)
def part_of_time_plan(
    layout: SequenceLayout, device: torch.device, cuts: tuple[int, ...], group: RankGroup
) -> TimePlan:
    """Build (or recall) one rank's part of the plan: its own cells, all times.

    Args:
        cuts: First frame of every rank, and the number of frames.
        group: The ranks.
    """
    frames = _time_frames(layout, noisy_is_one_time=True)
    when = _times(frames, device)
    shares = [frames[first:end] for first, end in pairwise(cuts)]
    start = layout.frame_starts[cuts[group.rank]]
    own = [frame.cells - start for frame in shares[group.rank]]
    lengths = tuple(sum(len(frame.cells) for frame in share) for share in shares)
    sharing = HeadExchange(group, lengths)
    return TimePlan(when, when[:, None] >= when[None, :], _cell_index(own, device) if own else None, sharing)


class _TimeFrame(NamedTuple):
    """What a frame is to the temporal branch: one row of `cells` per cell, with its tokens in order."""

    times: list[int]
    cells: NDArray[np.int64]


def _time_frames(layout: SequenceLayout, noisy_is_one_time: bool) -> list[_TimeFrame]:
    height, width = coarsest_grid(layout)
    history = layout.num_history_frames
    frames = []
    for number, (frame, start) in enumerate(zip(layout.frames, layout.frame_starts, strict=False)):
        k = _factor(frame, height)
        # Axes: coarse row, phase row, coarse column, phase column.
        tokens = start + np.arange(frame.num_tokens).reshape(height, k, width, k)
        if number < history:
            frames.append(_TimeFrame([number], tokens.transpose(0, 2, 1, 3).reshape(height * width, k * k)))
        else:
            times = [history if noisy_is_one_time else number] * k * k
            frames.append(_TimeFrame(times, tokens.transpose(1, 3, 0, 2).reshape(-1, 1)))
    return frames


def _times(frames: list[_TimeFrame], device: torch.device) -> Int[Tensor, "f"]:
    return torch.tensor([time for frame in frames for time in frame.times], device=device)


def _cell_index(members: list[np.ndarray], device: torch.device) -> CellIndex | None:
    first = np.concatenate([part[:, 0] for part in members])
    sizes = np.concatenate([np.full(*part.shape) for part in members])
    if sizes.max() == 1 and (first == np.arange(len(first))).all():
        return None
    num_rows, longest = int(sizes.sum()), int(sizes.max())
    cell, share = np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.float32)
    shared: list[np.ndarray] = [np.empty((0, longest), dtype=np.int64)]
    at = 0
    for part in members:
        cell[part] = at + np.arange(len(part))[:, None]
        share[part] = 1 / part.shape[1]
        if part.shape[1] > 1:
            shared.append(np.tile(part, longest // part.shape[1]))
        at += len(part)
    is_shared = sizes > 1
    return CellIndex(
        cell=torch.tensor(cell, device=device),
        first=torch.tensor(first, device=device),
        shared=torch.tensor(np.flatnonzero(is_shared), device=device),
        members=torch.tensor(np.concatenate(shared), device=device),
        share=torch.tensor(share, device=device),
        sizes=torch.tensor(sizes, device=device),
        line=torch.tensor(np.where(is_shared, is_shared.cumsum() - 1, 0), device=device),
    )


def _factor(frame: FrameGrid, height: int) -> int:
    assert frame.height % height == 0, (frame, height)
    return frame.height // height
