"""Tokens of all heads for all tokens of some heads, and back (DeepSpeed-Ulysses, arXiv 2309.14509).

Attention mixes tokens and leaves heads apart, so a rank that holds a few heads of the whole sequence can attend as if
it were alone: masks and kernels stay what they are. Heads are dealt out as evenly as they go; their number need not be
divisible by that of the ranks, but there must be one for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.ops.context_parallel.exchange import RankGroup

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values to mixed values, all of shape (batch, tokens, heads, channels); heads stay apart."""


class HeadSharing(Protocol):
    """How attention over a sequence is computed by those who hold parts of it."""

    def mix(
        self,
        attend: Attend,
        query: Float[Tensor, "b n g p"],
        key: Float[Tensor, "b n g p"],
        value: Float[Tensor, "b n g p"],
    ) -> Float[Tensor, "b n g p"]:
        """Attend over all tokens of the sequence, of which this process holds n."""

    def own(self, by_head: Float[Tensor, "g ..."]) -> Float[Tensor, "h ..."]:
        """Part of a parameter that belongs to the heads with which `attend` is called."""


@dataclass(frozen=True)
class Unshared:
    """The sequence is here as a whole."""

    def mix(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `HeadSharing`."""
        return attend(query, key, value)

    def own(self, by_head: Tensor) -> Tensor:
        """See `HeadSharing`."""
        return by_head


@dataclass(frozen=True)
class HeadExchange:
    """Each rank holds a span of tokens, and attends with a few heads.

    Attributes:
        group: The ranks.
        lengths: Tokens of each rank; spans follow one another in the sequence.
    """

    group: RankGroup
    lengths: tuple[int, ...]

    def mix(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `HeadSharing`."""
        num_heads = query.shape[2]
        query, key, value = self._to_heads(torch.stack([query, key, value])).unbind(0)
        return self._to_tokens(attend(query, key, value), num_heads)

    def own(self, by_head: Tensor) -> Tensor:
        """See `HeadSharing`."""
        parts: tuple[Tensor, ...] = by_head.split(share_heads(by_head.shape[0], self.group.size))
        return parts[self.group.rank]

    def _to_heads(self, tokens: Float[Tensor, "k b n g p"]) -> Float[Tensor, "k b all h p"]:
        kinds, batch, _, num_heads, width = tokens.shape
        heads = share_heads(num_heads, self.group.size)
        shapes = [[(kinds, batch, length, heads[self.group.rank], width)] for length in self.lengths]
        received = self.group.exchange([[part] for part in tokens.split(heads, dim=3)], shapes, tokens)
        return torch.cat([part for parts in received.parcels for part in parts], dim=2)

    def _to_tokens(self, mixed: Float[Tensor, "b all h p"], num_heads: int) -> Float[Tensor, "b n g p"]:
        batch, _, _, width = mixed.shape
        heads = share_heads(num_heads, self.group.size)
        shapes = [[(batch, self.lengths[self.group.rank], count, width)] for count in heads]
        received = self.group.exchange([[part] for part in mixed.split(self.lengths, dim=1)], shapes, mixed)
        return torch.cat([part for parts in received.parcels for part in parts], dim=2)


def share_heads(num_heads: int, num_ranks: int) -> list[int]:
    """Heads of each rank: as even as they go, earlier ranks first."""
    least, left = divmod(num_heads, num_ranks)
    return [least + (rank < left) for rank in range(num_ranks)]
