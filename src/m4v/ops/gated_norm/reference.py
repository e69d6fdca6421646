"""Gate and normalise scan outputs, in plain torch (Mamba-2's output norm with one group per head)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from m4v.ops.rms_norm import rms_norm


def gated_rms_norm(
    y: Float[Tensor, "b n g p"],
    z: Float[Tensor, "b n g p"],
    weight: Float[Tensor, "g p"],
    eps: float = 1e-5,
) -> Float[Tensor, "b n g p"]:
    """RMS-normalise `y * silu(z)` over each head's channels (gate first, then norm)."""
    return rms_norm(y * F.silu(z), weight, eps)
