"""Temporal branch: attention over time on frames pooled to the coarsest level (Sec. 3.3, Fig. 2b right).

History frames are averaged down to the coarsest grid; the noisy frame is cut into phases of that grid (every K-th row
and column), so that nothing of it is lost. Each becomes one time token: its query is the concatenation of its
positions' queries, which makes the score of two time tokens the sum over positions of their per-head products.
Projections act per position, so the branch works at any resolution, and, being linear, after pooling. There is no
output matrix; a learned gate starts at zero.
"""

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import TemporalBranchConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.normalization import HeadNorm
from m4v.ops.attention import attention
from m4v.ops.rope import RotaryTable, apply_rotary
from m4v.ops.ssd.reference import ssd


class BranchSizes(Protocol):
    """What a network's configuration tells its temporal branches."""

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries, keys and values."""

    @property
    def attention_head_dim(self) -> int:
        """Channels of a head."""

    @property
    def temporal_branch(self) -> TemporalBranchConfig:
        """Causality and kind of the mixing over time."""


class NoTemporalBranch(nn.Module):
    """Leaves tokens as they are: Table 3 without "Temp", and attention blocks."""

    def forward(self, tokens: Tensor, modulated: Tensor, context: SequenceContext) -> Tensor:
        return tokens


class TimeMixer(nn.Module):
    """Attention over time tokens and a learned gate: what temporal branches of both bases share.

    `causal` lets a history frame see itself and earlier ones; the phases of the noisy frames always see all history and
    each other. With `mixer = "ssd"` a scan over time takes the place of softmax (its phases then see earlier phases
    only).

    Source: Sec. 3.3 "Temporal Branch"; the alternative: Sec. 5 "Limitations".
    """

    def __init__(self, config: BranchSizes) -> None:
        super().__init__()
        heads = config.num_attention_heads
        width = heads * config.attention_head_dim
        self.num_heads = heads
        self.causal = config.temporal_branch.causal
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q: nn.Module = HeadNorm(config.attention_head_dim)
        self.norm_k: nn.Module = HeadNorm(config.attention_head_dim)
        self.gate = nn.Parameter(torch.zeros(width))
        self.uses_scan = config.temporal_branch.mixer == "ssd"
        if self.uses_scan:
            self.A_log = nn.Parameter(torch.zeros(heads))
            self.dt_bias = nn.Parameter(torch.full((heads,), -1.0))

    def residual(
        self, modulated: Float[Tensor, "b v d"], layout: SequenceLayout, rotary: RotaryTable | None = None
    ) -> Float[Tensor, "b v d"]:
        """What is to be added to the video tokens, gate included.

        Args:
            modulated: Video part of the block's modulated input.
            rotary: Rotations of queries and keys, one row per position of the time tokens; none on the pyramid base.
        """
        mixed = self._mix(time_tokens(modulated, layout), layout, rotary)
        return self.gate * from_time_tokens(mixed, layout)

    def _mix(
        self, times: Float[Tensor, "b f s d"], layout: SequenceLayout, rotary: RotaryTable | None
    ) -> Float[Tensor, "b f s d"]:
        positions = times.shape[2]
        cells = times.flatten(1, 2)
        query, key = self._queries_and_keys(cells)
        if rotary is not None:
            query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
        value = self.to_v(cells).unflatten(-1, (self.num_heads, -1))
        query, key, value = (rearrange(t, "b (f s) g p -> b f g (s p)", s=positions) for t in (query, key, value))
        if self.uses_scan:
            wide = torch.promote_types(value.dtype, torch.float32)
            step = F.softplus(self.dt_bias.to(wide)).expand(*value.shape[:3])
            scale = query.shape[-1] ** -0.5
            mixed = ssd(value, step, -torch.exp(self.A_log.to(wide)), key, query * scale).y
        else:
            mask = self._mask(layout, times.device) if self.causal else None
            mixed = attention(query, key, value, mask)
        return rearrange(mixed, "b f g (s p) -> b f s (g p)", s=positions)

    def _queries_and_keys(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        query, key = (linear(cells).unflatten(-1, (self.num_heads, -1)) for linear in (self.to_q, self.to_k))
        return self.norm_q(query), self.norm_k(key)

    def _mask(self, layout: SequenceLayout, device: torch.device) -> Tensor:
        return time_mask(layout, device)


class TemporalBranch(TimeMixer):
    """The branch of the pyramid base, whose blocks hold text and video in one sequence."""

    def forward(
        self, tokens: Float[Tensor, "b n d"], modulated: Float[Tensor, "b n d"], context: SequenceContext
    ) -> Float[Tensor, "b n d"]:
        """Add the branch's output to the video part of `tokens`; it reads the block's modulated input."""
        layout = context.layout
        text, video = tokens.split([layout.num_text_tokens, layout.num_video_tokens], dim=1)
        return torch.cat([text, video + self.residual(modulated[:, layout.num_text_tokens :], layout)], dim=1)


def coarsest_grid(layout: SequenceLayout) -> tuple[int, int]:
    """Rows and columns of the coarsest level, derived from the last frame's level (each level doubles a side).

    A grid that the coarsest level does not divide (a clip smaller than the pyramid) is taken as coarse already.
    """
    last = layout.frames[-1]
    factor = 2**last.level
    if last.height % factor or last.width % factor:
        factor = 1
    return last.height // factor, last.width // factor


def _factor(frame: FrameGrid, height: int) -> int:
    assert frame.height % height == 0, (frame, height)
    return frame.height // height


def time_tokens(video: Float[Tensor, "b n d"], layout: SequenceLayout) -> Float[Tensor, "b f s d"]:
    """Frames as time tokens of the coarsest grid: history pooled, noisy frames split into phases."""
    height, width = coarsest_grid(layout)
    out = []
    for number, (frame, start) in enumerate(zip(layout.frames, layout.frame_starts, strict=False)):
        rows = video[:, start : start + frame.num_tokens]
        k = _factor(frame, height)
        cells = rearrange(rows, "b (h i w j) d -> b (i j) (h w) d", h=height, w=width, i=k, j=k)
        out.append(cells if number >= layout.num_history_frames else cells.mean(1, keepdim=True))
    return torch.cat(out, dim=1)


def from_time_tokens(times: Float[Tensor, "b f s d"], layout: SequenceLayout) -> Float[Tensor, "b n d"]:
    """Bring time tokens back to their frames' own grids: history upsampled (nearest), phases interleaved."""
    height, width = coarsest_grid(layout)
    out, at = [], 0
    for number, frame in enumerate(layout.frames):
        k = _factor(frame, height)
        phases = k * k if number >= layout.num_history_frames else 1
        cells = times[:, at : at + phases]
        at += phases
        if phases == 1:
            out.append(repeat(cells[:, 0], "b (h w) d -> b (h i w j) d", h=height, w=width, i=k, j=k))
        else:
            out.append(rearrange(cells, "b (i j) (h w) d -> b (h i w j) d", h=height, w=width, i=k, j=k))
    return torch.cat(out, dim=1)


@lru_cache(maxsize=1024)
def time_mask(layout: SequenceLayout, device: torch.device) -> Tensor:
    """True where time token (row) may see time token (column): history causally, noisy phases everything."""
    history = layout.num_history_frames
    height, _ = coarsest_grid(layout)
    noisy = sum(_factor(frame, height) ** 2 for frame in layout.frames[history:])
    times = torch.cat([torch.arange(history), torch.full((noisy,), history)]).to(device)
    return times[:, None] >= times[None, :]
