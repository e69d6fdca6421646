"""A denoiser's sequence split over several ranks: context parallelism, installed from outside.

The network runs as ever, on the tokens of one rank; what it shares with other tokens goes through its context, and the
context is what knows of other ranks: attention exchanges tokens for heads (`ops/context_parallel/heads`), scans pass
their state on (`ops/context_parallel/state_passing`), and the velocity of the noisy frames is gathered at the end, so
that every rank returns all of it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext, sequence_context
from m4v.models.denoiser.frame_spans import FrameSpans, frame_spans
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.recomposition.scan_order import ScanOrder
from m4v.models.denoiser.time_plan import TimePlan, part_of_time_plan
from m4v.models.denoiser.visibility import Visibility, VisibilityKind
from m4v.ops.context_parallel.exchange import RankGroup
from m4v.ops.context_parallel.heads import HeadExchange, HeadSharing
from m4v.ops.context_parallel.state_passing import ScanSection, ScanSpan, ScanSpans
from m4v.ops.recompose.reference import RowOrder
from m4v.ops.rope import RotaryTable
from m4v.ops.scan_section.dispatch import may_run_kernels
from m4v.ops.scan_section.interface import SectionOrder, kernel_index


@dataclass(frozen=True)
class ShardedVisibility:
    """Who may see whom in the whole sequence, asked by ranks that hold parts of it.

    Attributes:
        whole: The rule for the whole sequence.
        sharing: How tokens become heads.
    """

    whole: Visibility
    sharing: HeadSharing

    @property
    def kind(self) -> VisibilityKind:
        """See `Visibility`."""
        return self.whole.kind

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Visibility`."""
        return self.sharing.mix(self.whole.attend, query, key, value)


@dataclass(frozen=True)
class ShardedScanOrder(ScanOrder):
    """One rank's part of a scan order.

    Attributes:
        span: What it needs of other ranks.
    """

    span: ScanSpan

    def mix(self, scan_section: ScanSection, *arguments: Any) -> Tensor:
        """See `ScanOrder`."""
        return self.span.mix(scan_section, *arguments)


@dataclass(frozen=True)
class ShardedContext(SequenceContext):
    """One rank's part of a sequence; `layout` is that of the whole.

    Attributes:
        spans: Who holds which frames.
        group: The ranks.
    """

    spans: FrameSpans = field(kw_only=True)
    group: RankGroup = field(kw_only=True)

    @property
    def num_text_tokens(self) -> int:
        """Text tokens at hand."""
        return self.spans.num_text(self.group.rank)

    def own_text(self, rows: Tensor) -> Tensor:
        """See `SequenceContext`."""
        return rows[:, : self.num_text_tokens]

    def own_video(self, rows: Tensor) -> Tensor:
        """See `SequenceContext`."""
        return rows[:, self.spans.video(self.group.rank)]

    def noisy_tokens(self, video_tokens: Tensor) -> Tensor:
        """See `SequenceContext`."""
        return video_tokens[:, self.spans.noisy(self.group.rank)]

    def whole_noisy(self, rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
        """See `SequenceContext`."""
        batch, _, width = rows.shape
        spans = [self.spans.noisy(rank) for rank in range(self.group.size)]
        shapes = [[(batch, span.stop - span.start, width)] for span in spans]
        received = self.group.exchange([[rows]] * self.group.size, shapes, rows)
        return torch.cat([part for parts in received.parcels for part in parts], dim=1)


@dataclass(frozen=True)
class ContextParallel:
    """Builds contexts for one rank's part of each sequence; stands where `sequence_context` does.

    Attributes:
        group: The ranks that share a sequence.
    """

    group: RankGroup

    def __call__(
        self, config: DenoiserConfig, layout: SequenceLayout, embedding: Tensor, text_mask: Tensor
    ) -> ShardedContext:
        """Prepare what the blocks of `config` need for one layout and batch, on this rank."""
        whole = sequence_context(config, layout, embedding, text_mask)
        rank, size = self.group.rank, self.group.size
        spans = frame_spans(layout, size)
        tokens = HeadExchange(self.group, tuple(map(spans.num_tokens, range(size))))
        # Text comes first, and only the first rank has some.
        start = 0 if rank == 0 else layout.num_text_tokens + spans.video(rank).start
        own = slice(start, start + spans.num_tokens(rank))
        scans = scan_spans(spans, config)
        return ShardedContext(
            layout=layout,
            embedding=embedding,
            rotary=RotaryTable(whole.rotary.cos[own], whole.rotary.sin[own]),
            visibility=None if whole.visibility is None else ShardedVisibility(whole.visibility, tokens),
            scan_orders={path: scan_part(order, spans, scans, self.group) for path, order in whole.scan_orders.items()},
            added_positions=None if whole.added_positions is None else whole.added_positions[own],
            time_plan=None if whole.time_plan is None else self._time_plan(spans, embedding.device),
            spans=spans,
            group=self.group,
        )

    def _time_plan(self, spans: FrameSpans, device: torch.device) -> TimePlan:
        return part_of_time_plan(spans.layout, device, spans.cuts, self.group)


def scan_spans(spans: FrameSpans, config: DenoiserConfig) -> ScanSpans:
    """Positions of every rank in the scan order."""
    registers = int(config.recomposition.registers)
    lengths = (spans.num_tokens(rank) + registers * len(spans.frames(rank)) for rank in range(spans.num_ranks))
    num_copied = spans.layout.num_text_tokens if config.recomposition.text_at_both_ends else 0
    return ScanSpans(tuple(lengths), num_copied, lookback=max(config.mixer.conv_width - 1, 0))


def scan_part(whole: ScanOrder, spans: FrameSpans, scans: ScanSpans, group: RankGroup) -> ScanOrder:
    """One rank's part of a scan order: a slice, with the rows that come from other ranks put in front and behind."""
    rank = group.rank
    order, bound = whole.section.rows, whole.bound
    batch, device = order.index.shape[0], order.index.device
    start, length = sum(scans.lengths[:rank]), scans.lengths[rank]
    before = sum(scans.halo(rank))
    copied = scans.num_copied if rank == scans.last else 0
    num_own = spans.num_tokens(rank)
    here = slice(start, start + length)
    behind = slice(order.index.shape[1] - copied, order.index.shape[1])

    # Rows: own tokens, rows before the span, second text copy. Positions: before, own, copy.
    first_row = 0 if rank == 0 else spans.layout.num_text_tokens + spans.video(rank).start
    front = num_own + torch.arange(before, device=device).expand(batch, -1)
    copies = num_own + before + torch.arange(copied, device=device).expand(batch, -1)
    registers = slice(*spans.cuts[rank : rank + 2]) if order.register_positions.shape[0] else slice(0)
    register_positions = order.register_positions[registers] - start + before
    index = torch.cat([front, order.index[:, here] - first_row, copies], dim=1)
    if register_positions.shape[0]:
        index = index.index_fill(1, register_positions, 0)
    positions = torch.cat(
        [
            order.positions[:, first_row : first_row + num_own] - start + before,
            torch.arange(before, device=device).expand(batch, -1),
            before + length + torch.arange(copied, device=device).expand(batch, -1),
        ],
        dim=1,
    )
    no_copies = order.text_copy_positions[:, :0]
    rows = RowOrder(index, positions, no_copies, register_positions, order.register_levels[registers])
    ones = bound.is_real.new_ones(batch, before)
    is_real = torch.cat([ones, bound.is_real[:, here], bound.is_real[:, behind]], dim=1)
    section = SectionOrder(
        rows,
        is_real,
        None if whole.section.rotary is None else _turns(whole.section.rotary, before, here, behind),
        kernel_index(rows, is_real) if may_run_kernels(device) else None,
    )

    tail = slice(before + length - scans.num_tail(rank), before + length)
    kinds = torch.full((index.shape[1],), -1, device=device).index_copy(0, register_positions, rows.register_levels)
    return ShardedScanOrder(whole.bound, section, ScanSpan(group, scans, section, index[:, tail], kinds[tail]))


def _turns(table: RotaryTable, before: int, here: slice, behind: slice) -> RotaryTable:
    """Rotations of the positions at hand; rows before the span only feed the convolution."""
    cos, sin = (
        torch.cat([part.new_full((before, part.shape[1]), fill), part[here], part[behind]])
        for part, fill in ((table.cos, 1.0), (table.sin, 0.0))
    )
    return RotaryTable(cos, sin)


def shard_sequence(denoiser: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Let the ranks of a group compute each sequence together.

    All of them call the network with the same arguments, and each gets the whole velocity. Gradients of a parameter
    are to be averaged over these ranks, as over those of data parallelism.

    Args:
        denoiser: The same weights on every rank.
        group: Ranks that share a sequence; None for all.

    Raises:
        UserError: if the network cannot be split.
    """
    if not isinstance(denoiser, M4VTransformer3DModel):
        raise UserError(
            f"{type(denoiser).__name__} cannot share a sequence among ranks; expected a pyramid denoiser "
            "(M4VTransformer3DModel). Run it in one process."
        )
    ranks, heads = RankGroup(group), denoiser.settings.num_attention_heads
    if ranks.size > heads:
        raise UserError(
            f"{ranks.size} processes are to share one sequence, but the network has {heads} attention heads; expected "
            "at most one process per head. Start fewer processes."
        )
    if denoiser.is_cache_enabled:
        raise UserError(
            "The network skips blocks by what it sees (enable_cache), which each process would decide for itself. Call "
            "disable_cache() before processes share its sequences."
        )
    denoiser.build_context = ContextParallel(ranks)
