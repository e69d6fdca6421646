"""Softmax attention over token-major heads; torch picks the kernel where one fits."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_WIDEST_FUSED_HEAD = 256
"""Fused kernels end here; beyond, torch may choose one that then finds itself unable to start."""


def attention(
    query: Float[Tensor, "b n g p"],
    key: Float[Tensor, "b m g p"],
    value: Float[Tensor, "b m g p"],
    mask: Bool[Tensor, "b 1 n m"] | Bool[Tensor, "n m"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b n g p"]:
    """Attend with scale `p ** -0.5` unless given; `mask` is True where a query may see a key.

    Heads wider than 256 channels, as whole frames have them in the temporal branch, are few and long: two matrix
    products with the softmax in float32 between them serve these.
    """
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    if query.shape[-1] > _WIDEST_FUSED_HEAD:
        return _long_heads(query, key, value, mask, scale).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def _long_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    # Scaled before the product: a sum over 10^5 channels leaves the range of half precision.
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(value.dtype) @ value
