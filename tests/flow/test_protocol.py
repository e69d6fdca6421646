"""One protocol, two flows: sampling with the true velocity ends at the clean latents, level after level."""

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.config import FullSequenceFlowConfig, PyramidFlowConfig
from m4v.flow.full_sequence import FullSequenceFlow
from m4v.flow.path import sample_path
from m4v.flow.protocol import Flow, integrate
from m4v.flow.pyramid import latent_pyramid, noise_pyramid
from m4v.flow.pyramid_flow import PyramidFlow
from m4v.flow.schedule import PyramidSchedule

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())
FLOWS = [PyramidFlow(SCHEDULE), FullSequenceFlow(FullSequenceFlowConfig(shift=5.0))]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LATENTS = torch.randn(3, 4, 1, 8, 12, generator=generator(0))


@pytest.mark.parametrize("flow", FLOWS)
def test_training_samples_of_every_level(flow: Flow) -> None:
    for level in range(flow.num_levels):
        options = {"noise_generator": generator(1), "timestep_generator": generator(2)}
        sample = flow.training_sample(LATENTS, level, **options)
        assert sample.level == level
        assert sample.noisy_latents.shape == sample.velocity.shape
        assert sample.timesteps.shape == sample.level_sigma.shape == (3,)
        assert sample.noisy_latents.shape[-1] == 12 // 2 ** (flow.num_levels - 1 - level)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_velocity_that_knows_the_answer_is_followed_to_it(flow: Flow) -> None:
    """On the last level `velocity = (latents_t - clean) / share` points at the clean latents from anywhere."""
    counts = [3] * flow.num_levels
    shares = iter(
        [share for level in range(flow.num_levels) for share in flow.inference_steps(level, 3).level_sigmas[:-1]]
    )
    clean = latent_pyramid(LATENTS, flow.num_levels)
    result = integrate(
        flow,
        lambda latents, level, timestep: (latents - clean[level]) / next(shares),
        torch.randn(LATENTS.shape, generator=generator(3)),
        counts,
        generator(4),
    )
    torch.testing.assert_close(result, LATENTS, rtol=1e-5, atol=1e-5)


def test_the_network_is_told_falling_timesteps() -> None:
    told: list[tuple[int, float]] = []

    def velocity(latents: torch.Tensor, level: int, timestep: float) -> torch.Tensor:
        told.append((level, timestep))
        return torch.zeros_like(latents)

    integrate(FLOWS[0], velocity, LATENTS, [1, 2, 3], generator(0))
    assert [level for level, _ in told] == [0, 1, 1, 2, 2, 2]
    integrate(FLOWS[1], velocity, LATENTS, [4], generator(0))
    timesteps = [timestep for _, timestep in told[6:]]
    assert timesteps[0] == 1000
    assert timesteps == sorted(timesteps, reverse=True)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_pyramid_behind_the_protocol_is_the_same_pyramid(level: int) -> None:
    sample = FLOWS[0].training_sample(LATENTS, level, noise_generator=generator(1), timestep_generator=generator(2))
    noise = noise_pyramid(torch.randn(LATENTS.shape, generator=generator(1)), 3)
    index = torch.randint(1000, (3,), generator=generator(2))
    expected = sample_path(SCHEDULE, latent_pyramid(LATENTS, 3), noise, level, index)
    for name in ("noisy_latents", "velocity", "timesteps", "level_sigma"):
        assert torch.equal(getattr(sample, name), getattr(expected, name)), name


@pytest.mark.parametrize("flow", FLOWS)
def test_step_counts_must_fit_the_levels(flow: Flow) -> None:
    with pytest.raises(UserError, match="There are 2 step counts"):
        integrate(flow, lambda latents, level, timestep: latents, LATENTS, [1, 1], generator(0))
