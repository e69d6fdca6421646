"""uint8 pictures to the floats that the autoencoder takes."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def video_tensor(
    frames: UInt8[np.ndarray, "b t h w 3"], device: torch.device | str = "cpu"
) -> Float[Tensor, "b 3 t h w"]:
    """Turn clips into float32 videos in [-1, 1], channels first; 0 becomes -1 and 255 becomes 1.

    The bytes travel to the device, a quarter of the traffic of floats.
    """
    on_device = torch.from_numpy(np.ascontiguousarray(frames)).to(device, non_blocking=True)
    return on_device.permute(0, 4, 1, 2, 3).contiguous().float().div(127.5).sub(1.0)
