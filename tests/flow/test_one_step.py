"""Eq. 5: the one-step clean estimate, in our noise convention and against the paper's signal convention."""

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.one_step import one_step_estimate
from m4v.flow.path import sample_path
from m4v.flow.pyramid import latent_pyramid, noise_pyramid
from m4v.flow.schedule import PyramidSchedule

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())


def pyramids() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    latents, noise = torch.randn(2, 4, 3, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    return latent_pyramid(latents, 3), noise_pyramid(noise, 3)


INDEX = torch.tensor([0, 100, 700, 999])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_exact_velocity_gives_the_clean_latents_of_the_level(level: int) -> None:
    clean, noise = pyramids()
    sample = sample_path(SCHEDULE, clean, noise, level, INDEX)
    estimate = one_step_estimate(
        SCHEDULE, sample.noisy_latents, sample.velocity, sample.level_sigma, level, noise[level]
    )
    torch.testing.assert_close(estimate, clean[level], rtol=1e-5, atol=1e-5)


def test_the_last_level_needs_no_noise() -> None:
    clean, noise = pyramids()
    sample = sample_path(SCHEDULE, clean, noise, 2, INDEX)
    estimate = one_step_estimate(SCHEDULE, sample.noisy_latents, sample.velocity, sample.level_sigma, 2)
    torch.testing.assert_close(estimate, clean[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_estimate_is_the_end_point_relation(level: int) -> None:
    """Mixing estimate and noise with the end shares gives the point where the velocity leads, exact or not."""
    clean, noise = pyramids()
    sample = sample_path(SCHEDULE, clean, noise, level, INDEX)
    wrong = sample.velocity + 0.3
    estimate = one_step_estimate(SCHEDULE, sample.noisy_latents, wrong, sample.level_sigma, level, noise[level])
    end = SCHEDULE.end_sigma[level]
    led_to = sample.noisy_latents - sample.level_sigma.reshape(-1, 1, 1, 1, 1) * wrong
    torch.testing.assert_close(end * noise[level] + (1 - end) * estimate, led_to, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_eq_5_as_printed(level: int) -> None:
    """Signal shares sigma_s <= sigma_t <= sigma_e and velocity x_e - x_s, put into the printed formula."""
    clean, noise = pyramids()
    sample = sample_path(SCHEDULE, clean, noise, level, INDEX)
    sigma_s, sigma_e = 1 - SCHEDULE.start_sigma[level], 1 - SCHEDULE.end_sigma[level]
    clock = sample.level_sigma.reshape(-1, 1, 1, 1, 1)
    sigma_t = clock * sigma_s + (1 - clock) * sigma_e
    bracket = sample.noisy_latents + (sigma_e - sigma_t) / (sigma_e - sigma_s) * -sample.velocity
    printed = (bracket - (1 - sigma_e) * noise[level]) / sigma_e
    ours = one_step_estimate(SCHEDULE, sample.noisy_latents, sample.velocity, sample.level_sigma, level, noise[level])
    torch.testing.assert_close(ours, printed, rtol=1e-4, atol=1e-5)


def test_plain_flow_matching_is_the_one_level_case() -> None:
    """sigma_s = 0 and sigma_e = 1: an exact velocity returns the clean latents."""
    schedule = PyramidSchedule.from_config(PyramidFlowConfig.with_equal_levels(1))
    clean, noise = torch.randn(2, 1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    estimate = one_step_estimate(schedule, 0.4 * noise + 0.6 * clean, noise - clean, torch.tensor([0.4]), 0)
    torch.testing.assert_close(estimate, clean)


def test_gradient_reaches_the_velocity() -> None:
    velocity = torch.zeros(1, 1, 1, 2, 2, requires_grad=True)
    one_step_estimate(SCHEDULE, torch.ones(1, 1, 1, 2, 2), velocity, torch.tensor([0.25]), 2).sum().backward()
    torch.testing.assert_close(velocity.grad, torch.full((1, 1, 1, 2, 2), -0.25))


def test_half_precision_is_estimated_in_float32() -> None:
    latents = torch.ones(1, 1, 1, 2, 2, dtype=torch.bfloat16)
    assert one_step_estimate(SCHEDULE, latents, latents, torch.tensor([0.5]), 2).dtype == torch.float32


def test_missing_noise_is_named() -> None:
    latents = torch.ones(1, 1, 1, 2, 2)
    with pytest.raises(UserError, match=r"level 1 still holds a noise share of 0\.334"):
        one_step_estimate(SCHEDULE, latents, latents, torch.tensor([0.5]), 1)
