"""Short causal depthwise convolution over tokens in plain torch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def causal_conv(
    x: Float[Tensor, "b n c"],
    weight: Float[Tensor, "c w"],
    bias: Float[Tensor, "c"] | None = None,
    *,
    history: Float[Tensor, "b v c"] | None = None,
) -> Float[Tensor, "b n c"]:
    """Convolve each channel with its own taps; the last tap is the token itself.

    Written as a sum of shifted products: token-major memory needs no transpose, and the backward of torch's depthwise
    `conv1d` is slow on every device.

    Args:
        history: The `w - 1` rows before the first token; zeros if absent.
    """
    width = weight.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0)) if history is None else torch.cat([history.to(x.dtype), x], dim=1)
    taps = weight.to(x.dtype).unbind(1)
    y = padded[:, width - 1 :] * taps[-1]
    for shift in range(width - 1):
        y = torch.addcmul(y, padded[:, shift : shift + x.shape[1]], taps[shift])
    return y if bias is None else y + bias.to(x.dtype)
