"""Per-head RMSNorm with learned weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.ops.rms_norm import rms_norm


class HeadNorm(nn.Module):
    """RMSNorm over the channels of each head; one weight vector for all heads."""

    def __init__(self, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Float[Tensor, "b n g p"]) -> Float[Tensor, "b n g p"]:
        return rms_norm(x, self.weight, self.eps)
