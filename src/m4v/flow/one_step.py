"""The clean latents implied by one velocity prediction: what reward learning decodes (Sec. 3.4, Eq. 5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.flow.schedule import PyramidSchedule


def one_step_estimate(
    schedule: PyramidSchedule,
    noisy_latents: Float[Tensor, "b c t h w"],
    velocity: Float[Tensor, "b c t h w"],
    level_sigma: Float[Tensor, " b"],
    level: int,
    noise: Float[Tensor, "b c t h w"] | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Follow the velocity to the level's end point and remove the noise that is still in it.

    Eq. 5 counts sigma as *signal* (sigma_s at the start of the level, sigma_e at its end, x_0 the noise), and its
    velocity is clean minus noisy. Here sigma is the *noise* share and the velocity is noisy minus clean, so

    - sigma_e = 1 - end_sigma, sigma_s = 1 - start_sigma, v_paper = -velocity;
    - (sigma_e - sigma_t) / (sigma_e - sigma_s) = level_sigma, the local clock;
    - the bracket of Eq. 5 is `noisy - level_sigma * velocity - end_sigma * noise`, divided by `1 - end_sigma`.

    At the last level end_sigma is 0 and no noise is needed. Gradients reach the velocity.

    Args:
        schedule: Tables of the pyramid.
        noisy_latents: Point on the level's path.
        velocity: Prediction at that point.
        level_sigma: Local clock of each row, 0 to 1.
        level: Spatial pyramid level, 0 = coarsest.
        noise: White noise of the level's path; required at every level but the last.

    Returns:
        Clean latents of that level, float32 or wider.

    Raises:
        UserError: when there is no such level, or the noise is missing where the end point still holds some.

    Source: Eq. 5, Sec. 3.4.
    """
    schedule.check_level(level)
    working = torch.promote_types(noisy_latents.dtype, torch.float32)
    clock = level_sigma.to(working).reshape(-1, 1, 1, 1, 1)
    end_point = noisy_latents.to(working) - clock * velocity.to(working)
    end_sigma = schedule.end_sigma[level]
    if end_sigma == 0:
        return end_point
    if noise is None:
        raise UserError(
            f"The end point of level {level} still holds a noise share of {end_sigma:.3f}; pass the path's noise, or "
            f"estimate at the last level ({schedule.num_levels - 1})."
        )
    return (end_point - end_sigma * noise.to(working)) / (1 - end_sigma)
