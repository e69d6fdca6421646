"""The one collective of context parallelism: every rank hands every other rank what it needs, gradients come back.

Each exchange is linear, and its backward pass is its exact adjoint: the same exchange with senders and receivers
swapped. With a loss computed on every rank, the gradient of a parameter's copy on one rank is therefore a part of the
gradient of the sum of all ranks' losses, and the mean over the ranks, which data parallelism takes anyway, is the
gradient of one loss.

All ranks must come to the same exchanges in the same order, backward too. Autograd runs nodes in the reverse order of
their making, so this holds if no rank leaves a node out: what a rank sends and receives may be empty, but has to hang
on its graph (see `Received.nothing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class Received(NamedTuple):
    """What came in.

    Attributes:
        parcels: Tensors from every rank, in the order in which that rank packed them.
        nothing: An empty vector that depends on the exchange. Its sum is 0; a rank that received nothing adds it to
            what it goes on with.
    """

    parcels: list[list[Tensor]]
    nothing: Tensor


@dataclass(frozen=True)
class RankGroup:
    """The ranks that share one sequence.

    Attributes:
        process_group: As torch knows them; None for all processes.
    """

    process_group: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return dist.get_rank(self.process_group)

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self.process_group)

    def exchange(
        self, parcels: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[Sequence[int]]], like: Tensor
    ) -> Received:
        """Send tensors to every rank, and receive some from every rank.

        Args:
            parcels: For each rank, tensors of the dtype of `like`; may be empty.
            shapes: For each rank, shapes of what it packs for this one.
            like: A tensor that depends on this rank's parameters wherever gradients are recorded.
        """
        sent = [[part.reshape(-1) for part in parts] for parts in parcels]
        flat = torch.cat([like.reshape(-1)[:0], *chain.from_iterable(sent)])
        send_sizes = [sum(part.numel() for part in parts) for parts in sent]
        sizes = [[prod(shape) for shape in parts] for parts in shapes]
        received: Tensor = _AllToAll.apply(flat, send_sizes, [sum(parts) for parts in sizes], self.process_group)  # type: ignore[no-untyped-call]
        pieces = iter(received.split(list(chain.from_iterable(sizes))))
        return Received([[next(pieces).view(*shape) for shape in parts] for parts in shapes], received[:0])


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, send_sizes: list[int], receive_sizes: list[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.arguments = (receive_sizes, send_sizes, group)
        return _all_to_all(flat, send_sizes, receive_sizes, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return _all_to_all(gradient, *ctx.arguments), None, None, None


def _all_to_all(
    flat: Tensor, send_sizes: list[int], receive_sizes: list[int], group: dist.ProcessGroup | None
) -> Tensor:
    received = flat.new_empty(sum(receive_sizes))
    dist.all_to_all_single(received, flat.contiguous(), receive_sizes, send_sizes, group=group)
    return received
