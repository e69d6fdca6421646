"""Softmax attention over token-major heads; torch picks the kernel where one fits."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

_WIDEST_FUSED_HEAD = 256
"""Fused kernels end here; beyond, torch may choose one that then finds itself unable to start."""
_FEWEST_ROWS_FOR_CUDNN = 1024
"""cuDNN plans every new shape once; few rows are not worth it."""
_HOPPER = 9


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
    if mask is None and _cudnn_is_faster(query):
        # A list of its own in each call: that is the form the compiler can follow.
        order = [
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.MATH,
        ]
        with sdpa_kernel(order, set_priority=True):
            mixed = F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
        if mixed.requires_grad:
            mixed = _DenseGradient.apply(mixed)  # type: ignore[no-untyped-call]
        return mixed
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def block_sparse_attention(
    query: Float[Tensor, "b n g p"],
    key: Float[Tensor, "b m g p"],
    value: Float[Tensor, "b m g p"],
    mask: BlockMask,
) -> Float[Tensor, "b n g p"]:
    """Attend with scale `p ** -0.5`, skipping blocks of keys that the mask hides as a whole (FlexAttention).

    The first call compiles a kernel, which takes about a minute; inside a compiled region it is part of that region.
    """
    run: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    mixed: Tensor = run(query, key, value, block_mask=mask)
    return mixed.transpose(1, 2)


class _DenseGradient(torch.autograd.Function):
    """The same tensor; its gradient arrives without gaps between rows.

    The plan of cuDNN's backward pass holds the strides of that gradient, but torch looks plans up without them (pytorch
    pull request 191576): a second layer of the same shape, whose gradient is laid out otherwise, reads elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor) -> Tensor:
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        return grad.contiguous()


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def _cudnn_is_faster(query: Tensor) -> bool:
    # On Hopper alone: 3.7 ms instead of FlashAttention's 6.0 at 15,488 tokens, 30 heads of 64 (H200, torch 2.11).
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[2] >= _FEWEST_ROWS_FOR_CUDNN
        and torch.cuda.get_device_properties(query.device).major == _HOPPER
    )


def _long_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    # Scaled before the product: a sum over 10^5 channels leaves the range of half precision.
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(value.dtype) @ value
