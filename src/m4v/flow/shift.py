"""The sigma shift, which moves a noise schedule towards its noisy end."""

from jaxtyping import Float
from torch import Tensor


def shift_sigmas(sigmas: Float[Tensor, " n"], shift: float) -> Float[Tensor, " n"]:
    """Shift noise shares: 0 and 1 stay where they are, a shift above 1 raises what lies between.

    Args:
        sigmas: Noise shares, 0 to 1.
        shift: Above 0; 1 changes nothing.

    Source: Pyramid-Flow and Wan2.1, `shift * sigma / (1 + (shift - 1) * sigma)`.
    """
    return shift * sigmas / (1 + (shift - 1) * sigmas)
