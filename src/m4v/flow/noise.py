"""White noise from the caller's generator, wherever the latents live."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m4v.core.generators import RowGenerator, draw


def standard_normal(shape: Sequence[int], generator: RowGenerator, device: torch.device | str) -> Tensor:
    """Draw float32 unit noise on the generator's device and move it.

    Drawing where the generator lives makes a CPU seed give the same video on every device, and drawing in float32
    gives the same values (up to rounding) for every latent precision.
    """
    return draw(torch.randn, shape, generator).to(device)
