"""Euler steps with the exact velocity lead through all levels back to the clean latents."""

from itertools import pairwise

import pytest
import torch

from m4v.flow.config import PyramidFlowConfig
from m4v.flow.pyramid import latent_pyramid
from m4v.flow.renoise import jump
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.solver import euler_step


def repeat_cells(latents: torch.Tensor) -> torch.Tensor:
    return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize("num_steps", [1, 3, 10])
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_exact_velocity_reaches_the_clean_latents(num_levels: int, num_steps: int) -> None:
    """At each level the noise behind the start point is solved for; it must be white and the end point exact."""
    schedule = PyramidSchedule.from_config(PyramidFlowConfig.with_equal_levels(num_levels))
    generator = torch.Generator().manual_seed(0)
    clean = latent_pyramid(torch.randn(8, 4, 2, 32, 32, generator=generator), num_levels)
    latents = torch.randn(clean[0].shape, generator=generator)
    for level in range(num_levels):
        start, end = schedule.start_sigma[level], schedule.end_sigma[level]
        signal = torch.zeros_like(latents)
        if level > 0:
            latents = jump(schedule, latents, level, generator)
            signal = (1 - start) * repeat_cells(clean[level - 1])
        noise = (latents - signal) / start
        cells = noise.unfold(-2, 2, 2).unfold(-2, 2, 2).reshape(-1, 4)
        torch.testing.assert_close(torch.cov(cells.T), torch.eye(4), rtol=0, atol=0.12 if level == 0 else 0.06)
        end_point = end * noise + (1 - end) * clean[level]
        velocity = latents - end_point
        sigmas = schedule.inference_steps(level, num_steps).level_sigmas
        for sigma, next_sigma in pairwise(sigmas):
            latents = euler_step(latents, velocity, sigma, next_sigma)
        torch.testing.assert_close(latents, end_point, rtol=0, atol=2e-6)
    torch.testing.assert_close(latents, clean[-1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("as_tensor", [True, False])
def test_half_precision_is_rounded_once(as_tensor: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, velocity = torch.randn(2, 1, 4, 1, 8, 8, generator=generator).bfloat16()
    sigma, next_sigma = (torch.tensor(0.7), torch.tensor(0.6)) if as_tensor else (0.7, 0.6)
    stepped = euler_step(latents, velocity, sigma, next_sigma)
    exact = latents.double() - 0.1 * velocity.double()
    # Half a unit in the last of bf16's 8 significant bits.
    assert ((stepped.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_mixed_precision_keeps_the_latents_precision() -> None:
    latents, velocity = torch.ones(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2, dtype=torch.bfloat16)
    stepped = euler_step(latents, velocity, 1.0, 0.5)
    assert stepped.dtype == torch.float32
    assert (stepped == 0.5).all()
    assert (latents == 1).all()
