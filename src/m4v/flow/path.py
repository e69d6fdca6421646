"""The straight path of one pyramid level, from its noisy start point to its cleaner end point (Sec. 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from m4v.flow.pyramid import upsample_nearest
from m4v.flow.schedule import PyramidSchedule


@dataclass(frozen=True, eq=False)
class FlowSample:
    """A point on the path of one level and what the network should say there.

    Attributes:
        noisy_latents: Network input.
        velocity: Regression target, start point minus end point.
        timesteps: What the network embeds, 0 to `num_train_timesteps`.
        level_sigma: Local clock of each row, 1 at the start point and 0 at the end point.
        level: Spatial pyramid level, 0 = coarsest.
        loss_weight: How much the loss of each row counts, 1 on average; None: all alike.
    """

    noisy_latents: Float[Tensor, "b c t h w"]
    velocity: Float[Tensor, "b c t h w"]
    timesteps: Float[Tensor, " b"]
    level_sigma: Float[Tensor, " b"]
    level: int
    loss_weight: Float[Tensor, " b"] | None = None


def start_point(
    schedule: PyramidSchedule,
    latents_pyramid: Sequence[Float[Tensor, "b c t _h _w"]],
    noise: Float[Tensor, "b c t h w"],
    level: int,
) -> Float[Tensor, "b c t h w"]:
    """Mix a level's noise with the next coarser clean latents: pure noise at level 0.

    Source: Sec. 3.1; Jin et al., 2024.
    """
    if level == 0:
        return noise
    sigma = schedule.start_sigma[level]
    return sigma * noise + (1 - sigma) * upsample_nearest(latents_pyramid[level - 1]).to(noise.dtype)


def end_point(
    schedule: PyramidSchedule,
    latents: Float[Tensor, "b c t h w"],
    noise: Float[Tensor, "b c t h w"],
    level: int,
) -> Float[Tensor, "b c t h w"]:
    """Mix a level's noise with its clean latents: the clean latents alone at the last level.

    Source: Sec. 3.1; Jin et al., 2024.
    """
    sigma = schedule.end_sigma[level]
    return sigma * noise + (1 - sigma) * latents


def sample_path(
    schedule: PyramidSchedule,
    latents_pyramid: Sequence[Float[Tensor, "b c t _h _w"]],
    noise_pyramid: Sequence[Float[Tensor, "b c t _h _w"]],
    level: int,
    index: Int[Tensor, " b"],
) -> FlowSample:
    """Take the training sample of every row at an index of the level's timestep table.

    The start and end points share one noise, so the velocity is constant along the path. Half-precision latents are
    mixed in float32 and rounded once.

    Args:
        schedule: Tables of the pyramid.
        latents_pyramid: Clean latents, coarsest level first.
        noise_pyramid: White noise of unit variance at every level, coarsest level first.
        level: Spatial pyramid level, 0 = coarsest.
        index: Row of the timestep table, 0 (noisiest) to `num_train_timesteps - 1`. Keep it on the CPU to avoid a
            device synchronisation.

    Raises:
        UserError: when there is no such level.

    Source: Sec. 3.1; Jin et al., 2024.
    """
    schedule.check_level(level)
    latents, dtype = latents_pyramid[level], latents_pyramid[level].dtype
    working = torch.promote_types(dtype, torch.float32)
    noise = noise_pyramid[level].to(working)
    start = start_point(schedule, latents_pyramid, noise, level)
    end = end_point(schedule, latents.to(working), noise, level)
    level_sigma = schedule.level_sigmas.to(index.device)[index].to(latents.device)
    share = rearrange(level_sigma, "b -> b 1 1 1 1")
    return FlowSample(
        noisy_latents=(share * start + (1 - share) * end).to(dtype),
        velocity=(start - end).to(dtype),
        timesteps=schedule.timesteps[level].to(index.device)[index].to(latents.device),
        level_sigma=level_sigma,
        level=level,
    )
