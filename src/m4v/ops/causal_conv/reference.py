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
    taps = weight.to(x.dtype).t().contiguous().unbind(0)
    shifted = [padded[:, shift : shift + x.shape[1]] for shift in range(width)]
    y = shifted[0] * taps[0] if bias is None else torch.addcmul(bias.to(x.dtype), shifted[0], taps[0])
    for rows, tap in zip(shifted[1:], taps[1:], strict=True):
        # In place: the backward needs rows and taps, not the sum.
        y = y.addcmul_(rows, tap)
    return y
