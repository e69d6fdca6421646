"""Two-layer perceptron with tanh-approximated GELU."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.fused_projections import is_plain
from m4v.ops.gelu_linear import gelu_linear, has_epilogue


class FeedForward(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if takes_epilogue(x, self.up):
            return self.down(gelu_linear(x, self.up.weight, self.up.bias))
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def takes_epilogue(tokens: Tensor, *linears: nn.Linear) -> bool:
    """Whether products with these maps may be computed from their weights, by `ops.gelu_linear`.

    Adapters, quantised layers and hooks need the calls of the layers.
    """
    return has_epilogue(tokens) and all(is_plain(linear) and linear.weight.dtype == tokens.dtype for linear in linears)
