"""Softmax attention over token-major heads; torch picks the kernel."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attention(
    query: Float[Tensor, "b n g p"],
    key: Float[Tensor, "b m g p"],
    value: Float[Tensor, "b m g p"],
    mask: Bool[Tensor, "b 1 n m"] | Bool[Tensor, "n m"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b n g p"]:
    """Attend with scale `p ** -0.5` unless given; `mask` is True where a query may see a key."""
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)
