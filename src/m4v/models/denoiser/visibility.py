"""Which token may see which, and the attention that keeps to it.

One rule, four ways to compute it, chosen once per layout and batch:

| kind | how | where |
|---|---|---|
| `full` | no mask | nothing is hidden: attention over all frames, prompts without padding |
| `dense` | a mask of all pairs | short sequences |
| `prefix` | one unmasked call per frame, on the keys up to it | long sequences |
| `flex` | FlexAttention: hidden blocks of keys are skipped | where asked for; compiles for about a minute |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from m4v.core.errors import UserError
from m4v.core.sequence_layout import SequenceLayout
from m4v.ops.attention import attention, block_sparse_attention
from m4v.ops.prefix_attention import PrefixOrder, prefix_attention

VisibilityKind = Literal["full", "dense", "prefix", "flex"]
_LONG = 4096
"""Tokens from which a mask of all pairs costs more than the calls that avoid it."""
_BLOCK = 128
"""Rows and columns of one block of FlexAttention's mask."""


class Visibility(Protocol):
    """Who may see whom, in a form that attention can use."""

    @property
    def kind(self) -> VisibilityKind:
        """Name of the way it is computed."""

    def attend(
        self, query: Float[Tensor, "b n g p"], key: Float[Tensor, "b n g p"], value: Float[Tensor, "b n g p"]
    ) -> Float[Tensor, "b n g p"]:
        """Softmax attention of every token over the tokens it may see; tokens are text, then video."""


@dataclass(frozen=True)
class FullVisibility:
    """Every token sees every token."""

    kind: Literal["full"] = "full"

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Visibility`."""
        return attention(query, key, value)


@dataclass(frozen=True)
class DenseVisibility:
    """A mask of all pairs.

    Attributes:
        mask: True where a query may see a key.
    """

    mask: Bool[Tensor, "b 1 n n"]
    kind: Literal["dense"] = "dense"

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Visibility`."""
        return attention(query, key, value, self.mask)


@dataclass(frozen=True)
class PrefixVisibility:
    """Frames are in order, so what a frame sees is a prefix of the sequence.

    Attributes:
        order: Ends of the frames, and lengths of the prompts.
    """

    order: PrefixOrder
    kind: Literal["prefix"] = "prefix"

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Visibility`."""
        return prefix_attention(query, key, value, self.order)


@dataclass(frozen=True)
class FlexVisibility:
    """FlexAttention's mask.

    Attributes:
        mask: Blocks of keys that a block of queries sees in part or as a whole, and the rule for the former.
    """

    mask: BlockMask
    kind: Literal["flex"] = "flex"

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Visibility`."""
        return block_sparse_attention(query, key, value, self.mask)


def sequence_visibility(
    layout: SequenceLayout,
    text_mask: Bool[Tensor, "b l"],
    temporal_causal: bool,
    kind: VisibilityKind | None = None,
) -> Visibility:
    """Who may see whom in one layout and batch; `attention_mask` states the rule.

    Reads the lengths of the prompts back from the device, except for short frame-causal sequences and `dense`, `flex`.

    Args:
        text_mask: True on real text tokens, which come first.
        temporal_causal: Frames see themselves and earlier frames only.
        kind: A way to compute it; chosen by length unless given.

    Raises:
        UserError: if `full` is asked for where something is hidden.
    """
    if kind == "dense" or (kind is None and temporal_causal and _num_tokens(layout) < _LONG):
        return DenseVisibility(attention_mask(layout, text_mask, temporal_causal))
    if kind == "flex":
        return FlexVisibility(block_mask(layout, text_mask, temporal_causal))
    lengths = _text_lengths(text_mask)
    is_full = set(lengths) <= {layout.num_text_tokens} and (not temporal_causal or len(layout.frames) == 1)
    if kind == "full" and not is_full:
        raise UserError(
            "Attention without a mask was asked for, but some tokens are hidden. Expected prompts without padding and "
            "temporal_causal_attention=False; choose 'dense', 'prefix' or 'flex' otherwise."
        )
    if kind == "full" or (kind is None and is_full):
        return FullVisibility()
    if kind is None and _num_tokens(layout) < _LONG:
        return DenseVisibility(attention_mask(layout, text_mask, temporal_causal))
    starts = layout.frame_starts if temporal_causal else (0, layout.num_video_tokens)
    bounds = torch.tensor([layout.num_text_tokens + start for start in starts], device="cpu")
    return PrefixVisibility(PrefixOrder(bounds, torch.tensor(lengths, device="cpu")))


def attention_mask(
    layout: SequenceLayout, text_mask: Bool[Tensor, "b l"], temporal_causal: bool
) -> Bool[Tensor, "b 1 n n"]:
    """Same-document and, if asked, temporal-causal mask over text and video tokens; text counts as frame 0.

    Padding sees padding only, so that no row of the softmax is empty and no real token sees padding.

    Source: Sec. 3.1 ("temporal causal mask"); Pyramid-Flow.
    """
    is_real = _is_real(layout, text_mask)
    mask = is_real[:, :, None] == is_real[:, None, :]
    if temporal_causal:
        times = token_times(layout, text_mask.device)
        mask = mask & (times[:, None] >= times[None, :])
    return mask[:, None]


def block_mask(layout: SequenceLayout, text_mask: Bool[Tensor, "b l"], temporal_causal: bool) -> BlockMask:
    """The rule of `attention_mask` for FlexAttention, found from the frame numbers at the ends of each block.

    Of a document (real tokens, or padding) a block of queries sees something of a block of keys if its latest token is
    no earlier than the earliest key. It sees all of it if both blocks lie in one document as a whole and its earliest
    token is no earlier than the latest key.
    """
    device, length = text_mask.device, _num_tokens(layout)
    is_real = _is_real(layout, text_mask)
    times = token_times(layout, device) if temporal_causal else torch.zeros(length, dtype=torch.int32, device=device)

    # Which document a token belongs to, by block: (documents, b, blocks, tokens); rows past the end belong to none.
    members = torch.nn.functional.pad(torch.stack([is_real, ~is_real]), (0, -length % _BLOCK)).unflatten(
        -1, (-1, _BLOCK)
    )
    block_times = torch.nn.functional.pad(times, (0, -length % _BLOCK)).unflatten(0, (-1, _BLOCK))
    after_all = len(layout.frames)
    latest = torch.where(members, block_times, -1).amax(-1)
    earliest = torch.where(members, block_times, after_all).amin(-1)
    is_whole = members.all(-1)

    some = (latest[..., :, None] >= earliest[..., None, :]).any(0)
    every = (is_whole[..., :, None] & is_whole[..., None, :] & (earliest[..., :, None] >= latest[..., None, :])).any(0)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=_BLOCK,
        mask_mod=_mask_rule(is_real.to(torch.int32), times),
        seq_lengths=(length, length),
    )


def _listed(blocks: Bool[Tensor, "b q k"]) -> tuple[Int[Tensor, "b 1 q"], Int[Tensor, "b 1 q k"]]:
    """How many key blocks are set for each query block, and which: those first, in order."""
    flags = blocks[:, None].to(torch.int8)
    order = flags.argsort(dim=-1, descending=True, stable=True)
    return flags.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _mask_rule(
    documents: Int[Tensor, "b n"], times: Int[Tensor, "n"]
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (documents[batch, query] == documents[batch, key]) & (times[query] >= times[key])

    return sees


@lru_cache(maxsize=1024)
def token_times(layout: SequenceLayout, device: torch.device) -> Int[Tensor, "n"]:
    """Number of each token's frame; text counts as frame 0."""
    counts = torch.tensor([layout.num_text_tokens, *(frame.num_tokens for frame in layout.frames)])
    numbers = torch.tensor([0, *range(len(layout.frames))], dtype=torch.int32)
    return numbers.repeat_interleave(counts).to(device)


def _is_real(layout: SequenceLayout, text_mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b n"]:
    return torch.cat([text_mask, text_mask.new_ones(text_mask.shape[0], layout.num_video_tokens)], dim=1)


def _text_lengths(text_mask: Bool[Tensor, "b l"]) -> list[int]:
    if text_mask.is_meta:  # Estimates run without content: prompts are taken as they are longest.
        return [text_mask.shape[1]] * text_mask.shape[0]
    lengths: list[int] = text_mask.sum(1).tolist()
    return lengths


def _num_tokens(layout: SequenceLayout) -> int:
    return layout.num_text_tokens + layout.num_video_tokens
