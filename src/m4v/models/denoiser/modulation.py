"""Adaptive layer norm: scale, shift and gate from the timestep embedding (alpha, beta, gamma of Fig. 2b)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def modulate(
    tokens: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """Layer norm without affine parameters (eps 1e-6), then `(1 + scale)` and shift.

    Half-precision tokens are normalised, scaled and shifted in float32 and rounded once, as the released Pyramid-Flow
    does under autocast. On the CPU product and sum stay apart: a fused multiply-add rounds otherwise.
    """
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    normed = F.layer_norm(wide, wide.shape[-1:], eps=1e-6)
    if tokens.is_cuda:  # in one pass over memory
        return torch.addcmul(shift, normed, 1 + scale).to(tokens.dtype)
    return (normed * (1 + scale) + shift).to(tokens.dtype)


def add_gated(
    tokens: Float[Tensor, "b n d"], gate: Float[Tensor, "b 1 d"], update: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """`tokens + gate * update`; on a GPU in one pass over memory, and rounded once."""
    if tokens.is_cuda:
        return torch.addcmul(tokens, gate, update)
    return tokens + gate * update


class Modulation(nn.Module):
    """Projects the embedding of a sequence to a number of per-channel vectors, zero at the start of training."""

    def __init__(self, width: int, num_chunks: int) -> None:
        super().__init__()
        self.num_chunks = num_chunks
        self.linear = nn.Linear(width, num_chunks * width)

    def forward(
        self, embedding: Float[Tensor, "b d"], projected: Float[Tensor, "b m"] | None = None
    ) -> tuple[Float[Tensor, "b 1 d"], ...]:
        """One row per vector.

        Args:
            embedding: Before its SiLU.
            projected: What the projection gives, where it was computed for all blocks at once.
        """
        rows = self.linear(F.silu(embedding)) if projected is None else projected
        return rows[:, None].chunk(self.num_chunks, dim=-1)
