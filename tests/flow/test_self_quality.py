"""Self-quality guidance: the change of statistics against latents built by hand, and where it acts."""

import math

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.path import sample_path
from m4v.flow.pyramid import latent_pyramid, noise_pyramid
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.self_quality import PathPosition, SelfQualityGuidance, StatisticsChange

SCHEDULES = {
    "three levels": PyramidSchedule.from_config(PyramidFlowConfig()),
    "two levels, weaker anticorrelation": PyramidSchedule.from_config(
        PyramidFlowConfig(num_levels=2, level_range=(0.0, 0.6, 1.0), gamma=0.2)
    ),
    "shifted": PyramidSchedule.from_config(PyramidFlowConfig(shift=2.0)),
}
PLACES = [(name, level) for name, schedule in SCHEDULES.items() for level in range(schedule.num_levels)]
# Pyramid-Flow's own numbers, one pair per channel, a change of sign, and the two trivial halves.
CHANGES = {
    "Pyramid-Flow": StatisticsChange(3.0986 / 1.8726, (-0.2343 + 0.04) / 1.8726),
    "per channel": StatisticsChange((0.5, 2.0, -1.5), (0.3, 0.0, -4.0)),
    "factor only": StatisticsChange(2.0, 0.0),
    "offset only": StatisticsChange(1.0, 0.7),
}
CLOCK = 1e-6  # the training path keeps its clock in single precision; everything else here is double


def numbers(seed: int) -> Tensor:
    return torch.randn(2, 3, 1, 8, 16, generator=generator_for(seed), dtype=torch.float64)


def path(schedule: PyramidSchedule, clean: Tensor, level: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, velocity and noise of the training path, with a fixed noise."""
    noises = noise_pyramid(numbers(1), schedule.num_levels)
    sample = sample_path(
        schedule, latent_pyramid(clean, schedule.num_levels), noises, level, torch.full((len(clean),), index)
    )
    return sample.noisy_latents, sample.velocity, noises[level]


def changed(clean: Tensor, change: StatisticsChange) -> Tensor:
    """Clean latents in the statistics of first frames, channel by channel."""
    factors, offsets = (
        value if isinstance(value, tuple) else (value,) * clean.shape[1] for value in (change.factor, change.offset)
    )
    channels = [clean[:, i] * a + b for i, (a, b) in enumerate(zip(factors, offsets, strict=True))]
    return torch.stack(channels, dim=1)


def position(schedule: PyramidSchedule, level: int, index: int) -> PathPosition:
    return PathPosition.of(schedule, level, schedule.level_sigmas[index].item())


@pytest.mark.parametrize(("name", "level"), PLACES)
@pytest.mark.parametrize("index", [0, 417, 999])
def test_an_exact_velocity_reveals_the_noise(name: str, level: int, index: int) -> None:
    schedule = SCHEDULES[name]
    latents, velocity, noise = path(schedule, numbers(2), level, index)
    estimate = position(schedule, level, index).estimate_noise(latents, velocity)
    torch.testing.assert_close(estimate, noise, atol=CLOCK, rtol=0)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("name", "level"), PLACES)
@pytest.mark.parametrize("index", [0, 417, 999])
def test_the_change_is_the_path_of_the_changed_latents(
    change: StatisticsChange, name: str, level: int, index: int
) -> None:
    """Same noise, same clock, other clean latents: that is what the formulas must give, and undo."""
    schedule = SCHEDULES[name]
    latents, velocity, noise = path(schedule, numbers(2), level, index)
    image_latents, image_velocity, _ = path(schedule, changed(numbers(2), change), level, index)
    here = position(schedule, level, index)
    torch.testing.assert_close(here.to_first_frame(latents, noise, change), image_latents, atol=CLOCK, rtol=0)
    torch.testing.assert_close(here.from_first_frame(image_velocity, noise, change), velocity, atol=CLOCK, rtol=0)


@pytest.mark.parametrize(("name", "level"), PLACES)
def test_exchanged_noise_is_the_path_of_the_same_latents(name: str, level: int) -> None:
    schedule = SCHEDULES[name]
    clean, fresh = numbers(2), noise_pyramid(numbers(9), schedule.num_levels)
    latents, velocity, noise = path(schedule, clean, level, 300)
    sample = sample_path(
        schedule, latent_pyramid(clean, schedule.num_levels), fresh, level, torch.full((len(clean),), 300)
    )
    here = position(schedule, level, 300)
    torch.testing.assert_close(
        here.exchange_noise(latents, old=noise, new=fresh[level]), sample.noisy_latents, atol=CLOCK, rtol=0
    )
    torch.testing.assert_close(
        here.exchange_velocity_noise(velocity, old=noise, new=fresh[level]), sample.velocity, atol=CLOCK, rtol=0
    )


@pytest.mark.parametrize(("name", "level"), PLACES)
def test_noise_share_is_what_pure_noise_is_scaled_by(name: str, level: int) -> None:
    schedule = SCHEDULES[name]
    latents, velocity, noise = path(schedule, torch.zeros(2, 3, 1, 8, 16, dtype=torch.float64), level, 250)
    here = position(schedule, level, 250)
    torch.testing.assert_close(latents, here.noise_share * noise)
    torch.testing.assert_close(velocity, here.noise_in_velocity * noise)


def test_the_coarsest_level_may_have_odd_sizes() -> None:
    latents = torch.randn(1, 3, 1, 3, 5, generator=generator_for(0))
    here = PathPosition.of(SCHEDULES["three levels"], 0, 0.5)
    assert here.estimate_noise(latents, latents).shape == latents.shape


@pytest.mark.parametrize("weight", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("prompt_scale", [1.0, 5.0])
def test_coefficients_of_the_four_velocities(weight: float, prompt_scale: float) -> None:
    """Eq. 8 to 10 written out: the four coefficients sum to 1."""
    neither, history, prompt, both = (numbers(seed) for seed in range(4))
    low = history + prompt_scale * (both - history)
    high = neither + prompt_scale * (prompt - neither)
    coefficients = [
        (1 - prompt_scale) * (1 - weight),
        prompt_scale * (1 - weight),
        weight * (1 - prompt_scale),
        weight * prompt_scale,
    ]
    assert math.isclose(sum(coefficients), 1.0, abs_tol=1e-12)
    expected = sum(c * v for c, v in zip(coefficients, (history, both, neither, prompt), strict=True))
    torch.testing.assert_close(SelfQualityGuidance(weight=weight).combine(low, high), expected)


def test_it_is_off_by_default() -> None:
    assert not any(
        SelfQualityGuidance().is_active(unit, level, num_levels=3) for unit in range(40) for level in range(3)
    )


def test_it_begins_at_the_ninth_frame_and_acts_on_the_last_level() -> None:
    guidance = SelfQualityGuidance(weight=0.5)
    active = [(unit, level) for unit in range(11) for level in range(3) if guidance.is_active(unit, level, 3)]
    assert active == [(8, 2), (9, 2), (10, 2)]


def test_first_unit_and_levels_are_settings() -> None:
    guidance = SelfQualityGuidance(weight=0.5, first_unit=2, levels=(0, 1))
    active = [(unit, level) for unit in range(4) for level in range(3) if guidance.is_active(unit, level, 3)]
    assert active == [(2, 0), (2, 1), (3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("change", "is_identity"),
    [
        (StatisticsChange(), True),
        (StatisticsChange((1.0, 1.0), 0.0), True),
        (StatisticsChange(1.0, (0.0, 0.1)), False),
        (StatisticsChange(1.1, 0.0), False),
    ],
)
def test_identity_is_recognised(change: StatisticsChange, is_identity: bool) -> None:
    assert change.is_identity is is_identity


@pytest.mark.parametrize(
    "options",
    [
        {"weight": -0.1},
        {"weight": math.nan},
        {"weight": math.inf},
        {"first_unit": 0},
        {"levels": ()},
        {"levels": (-1,)},
    ],
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=r"[Ss]elf-guidance"):
        SelfQualityGuidance(**options)
