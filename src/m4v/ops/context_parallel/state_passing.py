"""The scan section over a sequence that several ranks hold, each a span of the scan order.

The recurrence is linear in its state, so a rank need not wait for the one before it: all compute at once how their
span changes a state (`span_effect`), tell those behind, and then scan from the state they now know. Three exchanges:

1. The rows that the convolution looks back on (the last three positions before the span), which join the span in front
   with step size 0: they feed the convolution and leave the state alone. And the prompt's rows, to the last rank,
   where the second copy of the text closes the sequence.
2. Effects of spans, and the prompt's step sizes.
3. What the second copy of the text gave, back to the rank that holds the text.

None grows with the length of the video. Source: Mamba-2, section 8.2; Sec. 3.3 for the order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from m4v.ops.context_parallel.exchange import RankGroup
from m4v.ops.context_parallel.span_effect import SpanEffect, span_effect
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput

_NO_STEP = -1e4
"""Softplus makes 0 of it in every number format, so a row changes no state."""

ScanSection = Callable[..., SectionOutput]


@dataclass(frozen=True)
class ScanSpans:
    """How the ranks divide a scan order; the same on every rank.

    Attributes:
        lengths: Scan positions of each rank, the second text copy not counted.
        num_copied: Rows of the text, if it is scanned a second time at the end; they are the first rows of rank 0.
        lookback: Rows that the convolution sees before the one at hand.
    """

    lengths: tuple[int, ...]
    num_copied: int
    lookback: int

    @property
    def last(self) -> int:
        """The rank with the end of the sequence."""
        return len(self.lengths) - 1

    def is_active(self, rank: int) -> bool:
        """Whether a rank has anything to scan."""
        return self.lengths[rank] > 0 or (rank == self.last and self.num_copied > 0)

    def num_tail(self, rank: int) -> int:
        """How many of a rank's last positions others may need."""
        return min(self.lookback, self.lengths[rank])

    def halo(self, receiver: int) -> tuple[int, ...]:
        """How many rows, from its end, each rank gives to what a rank's convolution sees before its span."""
        counts = [0] * len(self.lengths)
        missing = self.lookback if self.is_active(receiver) else 0
        for sender in reversed(range(receiver)):
            counts[sender] = min(missing, self.lengths[sender])
            missing -= counts[sender]
        return tuple(counts)

    def tells(self, sender: int, receiver: int) -> bool:
        """Whether a rank's effect is needed by another."""
        return sender < receiver and self.lengths[sender] > 0 and self.is_active(receiver)


@dataclass(frozen=True)
class ScanSpan:
    """One rank's part of a scan order, for one batch of prompts.

    Attributes:
        group: The ranks.
        spans: Who has what.
        order: Order of the rows at hand: own tokens, then rows before the span, then the second text copy. In scan
            order the rows before the span come first and the second text copy last.
        tail_rows: Rows of the last own positions, oldest first.
        tail_kinds: Kind of the register that stands there; -1 for tokens.
    """

    group: RankGroup
    spans: ScanSpans
    order: SectionOrder
    tail_rows: Int[Tensor, "b t"]
    tail_kinds: Int[Tensor, "t"]

    def mix(
        self,
        scan_section: ScanSection,
        rows: Float[Tensor, "b n f"],
        register_rows: Float[Tensor, "k f"],
        dt: Float[Tensor, "b n g"],
        register_dt: Float[Tensor, "k g"],
        weights: ScanWeights,
        options: ScanOptions,
    ) -> Float[Tensor, "b n d"]:
        """Mix this rank's rows as `scan_section` would mix them amid all others.

        Args:
            scan_section: Mixes a span from a given state.
            rows: Projections of this rank's tokens; see `scan_section` for these and the others.
        """
        spans, rank = self.spans, self.group.rank
        num_rows = rows.shape[1]
        before, text_rows = self._fetch_rows(rows, register_rows, weights.norm_weight.numel())
        rows_here = torch.cat([rows, before, text_rows], dim=1)
        no_steps = dt.new_full((1, 1, 1), _NO_STEP).expand(dt.shape[0], before.shape[1], dt.shape[2])
        effect = None
        if any(spans.tells(rank, receiver) for receiver in range(self.group.size)):
            steps = torch.cat([dt, no_steps], dim=1)
            effect = span_effect(rows_here, register_rows, steps, register_dt, weights, self.order, options)
        state, text_dt = self._fetch_state(effect, dt, rows, weights)
        if spans.is_active(rank):
            steps = torch.cat([dt, no_steps, text_dt], dim=1)
            mixed = scan_section(
                rows_here, register_rows, steps, register_dt, weights, self.order, options, state
            ).mixed
        else:
            # Every parameter gets a gradient on every rank, if only zeros: shards are reduced together.
            parts = (before, state, register_rows, register_dt, *weights)
            ties = [part.reshape(-1)[:0].sum().to(rows.dtype) for part in parts if part is not None]
            mixed = rows[..., : weights.norm_weight.numel()] + torch.stack(ties).sum()
        return self._return_text(mixed, num_rows)

    def _fetch_rows(
        self, rows: Tensor, register_rows: Tensor, width: int
    ) -> tuple[Float[Tensor, "b h f"], Float[Tensor, "b l f"]]:
        """Rows before the span, and the rows of the second text copy; no rows where there are none."""
        spans, rank, size = self.spans, self.group.rank, self.group.size
        batch, _, num_channels = rows.shape
        tail = self._tail(rows, register_rows)[..., width:]  # the convolution does not see z
        text = rows[:, : spans.num_copied] if rank == 0 else rows[:, :0]
        parcels = [
            [tail[:, tail.shape[1] - spans.halo(receiver)[rank] :], *([text] if receiver == spans.last else [])]
            for receiver in range(size)
        ]
        halo = spans.halo(rank)
        shapes = [[(batch, halo[sender], num_channels - width)] for sender in range(size)]
        if rank == spans.last:
            for sender, parts in enumerate(shapes):
                parts.append((batch, spans.num_copied if sender == 0 else 0, num_channels))
        received = self.group.exchange(parcels, shapes, rows)
        before = F.pad(torch.cat([parts[0] for parts in received.parcels], dim=1), (width, 0))
        copies = [part for parts in received.parcels for part in parts[1:]]
        return before, torch.cat(copies, dim=1) if copies else rows[:, :0]

    def _tail(self, rows: Tensor, register_rows: Tensor) -> Float[Tensor, "b t f"]:
        """Rows of the last own positions, as the convolution sees them: padding is zero."""
        num_tail = self.spans.num_tail(self.group.rank)
        tail = rows.gather(1, self.tail_rows[..., None].expand(-1, -1, rows.shape[-1]))
        if register_rows.shape[0] and num_tail:
            kinds = self.tail_kinds[:, None]
            tail = torch.where(kinds >= 0, register_rows[self.tail_kinds.clamp(min=0)].to(rows.dtype), tail)
        end = self.order.is_real.shape[1] - (self.spans.num_copied if self.group.rank == self.spans.last else 0)
        return tail * self.order.is_real[:, end - num_tail : end, None]

    def _fetch_state(
        self, effect: SpanEffect | None, dt: Tensor, rows: Tensor, weights: ScanWeights
    ) -> tuple[Float[Tensor, "b g p s"], Float[Tensor, "b l g"]]:
        """State before the span, and step sizes of the second text copy."""
        spans, rank, size = self.spans, self.group.rank, self.group.size
        batch, num_heads = dt.shape[0], dt.shape[2]
        head_dim = weights.norm_weight.shape[1]
        shape = (batch, num_heads, head_dim, rows.shape[-1] // (2 * num_heads) - head_dim)
        wide = torch.promote_types(torch.promote_types(rows.dtype, dt.dtype), torch.float32)
        text_dt = dt[:, : spans.num_copied] if rank == 0 else dt[:, :0]
        parcels: list[list[Tensor]] = []
        shapes: list[list[tuple[int, ...]]] = []
        for other in range(size):
            parcels.append([*effect] if effect is not None and spans.tells(rank, other) else [])
            shapes.append([(batch, num_heads), shape] if spans.tells(other, rank) else [])
        parcels[spans.last].append(text_dt.to(wide))
        if rank == spans.last:
            shapes[0].append((batch, spans.num_copied, num_heads))
            for other in range(1, size):
                shapes[other].append((batch, 0, num_heads))
        received = self.group.exchange(parcels, shapes, dt.to(wide))
        state = dt.new_zeros(shape, dtype=wide) + received.nothing.sum()
        for sender, parts in enumerate(received.parcels):
            if spans.tells(sender, rank):
                state = torch.exp(parts[0])[..., None, None] * state + parts[1]
        steps = received.parcels[0][-1].to(dt.dtype) if rank == spans.last else dt[:, :0]
        return state, steps

    def _return_text(self, mixed: Float[Tensor, "b m d"], num_rows: int) -> Float[Tensor, "b n d"]:
        """Rows of own tokens, the outputs of the second text copy added to those of the first."""
        spans, rank, size = self.spans, self.group.rank, self.group.size
        parcels: list[list[Tensor]] = [[] for _ in range(size)]
        shapes: list[list[tuple[int, ...]]] = [[] for _ in range(size)]
        if rank == spans.last:
            parcels[0].append(mixed[:, mixed.shape[1] - spans.num_copied :])
        if rank == 0:
            shapes[spans.last].append((mixed.shape[0], spans.num_copied, mixed.shape[2]))
        received = self.group.exchange(parcels, shapes, mixed)
        if rank == 0:
            num_text = spans.num_copied
            second = received.parcels[spans.last][0]
            return torch.cat([mixed[:, :num_text] + second, mixed[:, num_text:num_rows]], dim=1)
        return mixed[:, :num_rows] + received.nothing.sum()
