"""Root-mean-square normalisation over the last axis."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(x: Float[Tensor, "... p"], weight: Float[Tensor, "... p"] | None, eps: float) -> Float[Tensor, "... p"]:
    """Normalise in at least fp32, return the dtype of `x`.

    A half-precision weight is multiplied after the cast to half precision, as the public Pyramid-Flow network does.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is None:
        return normed.to(x.dtype)
    if weight.dtype in (torch.float16, torch.bfloat16):
        normed = normed.to(weight.dtype)
    return (normed * weight).to(x.dtype)
