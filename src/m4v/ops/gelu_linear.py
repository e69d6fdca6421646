"""The two matrix products around a GELU, without a pass over memory for the activation or a concatenation of its own.

For prediction in half precision on NVIDIA GPUs. Operators of our own to a compiler, which would otherwise take the
products apart into a plain one and separate steps.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def has_epilogue(tokens: Tensor) -> bool:
    """Whether matrix products on these tokens can end in a GELU (cuBLASLt), and nobody asks for gradients."""
    return (
        tokens.is_cuda
        and torch.version.hip is None
        and tokens.dtype in (torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cuda")
    )


def gelu_linear(
    tokens: Float[Tensor, "*n d"], weight: Float[Tensor, "e d"], bias: Float[Tensor, "e"]
) -> Float[Tensor, "*n e"]:
    """Tanh-approximated GELU of a linear map; where `has_epilogue`, rounded once instead of before and after it."""
    widened: Tensor = (_gelu_linear_op if torch.compiler.is_compiling() else _gelu_linear)(tokens, weight, bias)
    return widened


def linear_of_parts(
    first: Float[Tensor, "*n d"],
    second: Float[Tensor, "*n e"],
    weight: Float[Tensor, "o d+e"],
    bias: Float[Tensor, "o"],
) -> Float[Tensor, "*n o"]:
    """Linear map of `[first | second]`, which are not put side by side for it.

    Both products add to one result, which reads and writes it once more, in the precision of the tokens: cheaper than
    copying the operands wherever these are wider than the result. Has no gradients.
    """
    run = _linear_of_parts_op if torch.compiler.is_compiling() else _linear_of_parts
    mapped: Tensor = run(first, second, weight, bias)
    return mapped


def _gelu_linear(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not tokens.is_cuda:  # the same call is the exact GELU there
        return F.gelu(F.linear(tokens, weight, bias), approximate="tanh")
    widened = torch._addmm_activation(bias, tokens.flatten(0, -2), weight.T, use_gelu=True)
    return widened.view(*tokens.shape[:-1], -1)


def _linear_of_parts(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    width = first.shape[-1]
    mapped = F.linear(second.flatten(0, -2), weight[:, width:], bias)
    return mapped.addmm_(first.flatten(0, -2), weight[:, :width].T).view(*first.shape[:-1], -1)


_gelu_linear_op = torch.library.custom_op("m4v::gelu_linear", _gelu_linear, mutates_args=())
_linear_of_parts_op = torch.library.custom_op("m4v::linear_of_parts", _linear_of_parts, mutates_args=())


@_gelu_linear_op.register_fake
def _(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return tokens.new_empty(*tokens.shape[:-1], weight.shape[0])


@_linear_of_parts_op.register_fake
def _(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return first.new_empty(*first.shape[:-1], weight.shape[0])
