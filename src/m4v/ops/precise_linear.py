"""A linear map in the precision of its weights, without a copy of the tokens in that precision.

Step sizes are exponents of the state, so they come from fp32 weights; but their matrix has one row per head, and a
copy of all tokens in fp32 would cost more than the product. On a GPU, single-precision numbers are therefore split into
two bf16 halves, `w = high + low` to 16 bits, whose products with bf16 tokens are exact and are summed in fp32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float
from torch import Tensor


def precise_linear(
    tokens: Float[Tensor, "*n d"], weight: Float[Tensor, "g d"], bias: Float[Tensor, "g"]
) -> Float[Tensor, "*n g"]:
    """Project tokens in the dtype of `weight`; under autocast, tokens are rounded as for the projections beside it."""
    device = tokens.device.type
    # Devices that compute nothing, such as "meta", have no autocast to ask about.
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return precise_linear(tokens.to(torch.get_autocast_dtype(device)), weight, bias)
    if device == "cuda" and tokens.dtype == torch.bfloat16 and weight.dtype == torch.float32:
        flat: Tensor = _SplitLinear.apply(tokens.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
        return flat.view(*tokens.shape[:-1], weight.shape[0])
    return F.linear(tokens.to(weight.dtype), weight, bias)


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        high, low = _product(tokens, torch.cat(_halves(weight)).T).chunk(2, dim=1)
        # Nothing in place: compiled by torch 2.11, such a function gets gradients of zero (pytorch issue 180642).
        return high + low + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        # In fp32, tokens too: products of halves save less here, where their operands are transposed and narrow.
        (grad,), (tokens, weight) = grads, ctx.saved_tensors
        tokens_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            tokens_grad = (grad @ weight).to(tokens.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad = grad.T @ tokens.to(grad.dtype)
        return tokens_grad, weight_grad, grad.sum(0)


def _halves(values: Float[Tensor, "n d"]) -> tuple[BFloat16[Tensor, "n d"], BFloat16[Tensor, "n d"]]:
    # Rounded through the bits: a graph compiler computes in fp32 what a formula calls bf16, so that `values` less
    # `values` in bf16 would be nothing at all.
    high = ((values.view(torch.int32) + 0x8000) & -0x10000).view(torch.float32)
    return high.to(torch.bfloat16), (values - high).to(torch.bfloat16)


def _product(left: BFloat16[Tensor, "n k"], right: BFloat16[Tensor, "k m"]) -> Float[Tensor, "n m"]:
    """bf16 operands, fp32 result."""
    return torch.mm(left, right, out_dtype=torch.float32)
