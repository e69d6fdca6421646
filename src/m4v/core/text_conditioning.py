"""The encoded prompt as it travels from text encoders to denoisers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class TextConditioning:
    """Encoded prompts of a batch.

    Attributes:
        tokens: Sequence embedding of each prompt; real tokens first, padding after them.
        mask: True where a token is real.
        pooled: One vector per prompt.
    """

    tokens: Float[Tensor, "b l e"]
    mask: Bool[Tensor, "b l"]
    pooled: Float[Tensor, "b p"]

    def __post_init__(self) -> None:
        assert self.tokens.shape[:2] == self.mask.shape, (self.tokens.shape, self.mask.shape)
        assert self.mask.dtype == torch.bool, self.mask.dtype

    def concatenate(self, other: "TextConditioning") -> "TextConditioning":
        """Stack two batches of prompts, this one first."""
        return TextConditioning(
            torch.cat([self.tokens, other.tokens]),
            torch.cat([self.mask, other.mask]),
            torch.cat([self.pooled, other.pooled]),
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "TextConditioning":
        """Move to a device; `dtype` applies to the embeddings only."""
        return TextConditioning(
            self.tokens.to(device=device, dtype=dtype),
            self.mask.to(device=device),
            self.pooled.to(device=device, dtype=dtype),
        )
