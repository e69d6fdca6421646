"""The training sample: target law written out by hand, rounding, and untouched arguments."""

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.path import sample_path
from m4v.flow.pyramid import latent_pyramid, noise_pyramid
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.timesteps import sample_timestep_index

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())
# (start noise, end noise) per level, as released.
SHARES = [(1.0, 0.667), (0.80023995, 0.334), (0.50074962, 0.0)]


def pyramids(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    latents, noise = torch.randn(2, 4, 3, 2, 8, 12, generator=torch.Generator().manual_seed(3))
    return latent_pyramid(latents.to(dtype), 3), noise_pyramid(noise.to(dtype), 3)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_target_law(level: int) -> None:
    clean, noise = pyramids()
    index = torch.tensor([0, 250, 500, 999])
    sample = sample_path(SCHEDULE, clean, noise, level, index)
    start_share, end_share = SHARES[level]
    start = start_share * noise[level]
    if level > 0:
        start = start + (1 - start_share) * clean[level - 1].repeat_interleave(2, -1).repeat_interleave(2, -2)
    end = end_share * noise[level] + (1 - end_share) * clean[level]
    torch.testing.assert_close(sample.velocity, start - end, rtol=1e-5, atol=1e-6)
    for row, clock in enumerate([1.0, 0.75, 0.5, 0.001]):
        torch.testing.assert_close(
            sample.noisy_latents[row], clock * start[row] + (1 - clock) * end[row], rtol=1e-5, atol=1e-6
        )
        assert sample.level_sigma[row].item() == pytest.approx(clock, abs=1e-7)
        assert sample.timesteps[row] == SCHEDULE.timesteps[level][index[row]]
    assert sample.level == level


@pytest.mark.parametrize("level", [0, 1, 2])
def test_half_precision_is_mixed_in_float32_and_rounded_once(level: int) -> None:
    clean, noise = pyramids(torch.bfloat16)
    index = torch.tensor([7, 300, 650, 990])
    half = sample_path(SCHEDULE, clean, noise, level, index)
    wide = sample_path(SCHEDULE, [x.float() for x in clean], [x.float() for x in noise], level, index)
    assert half.noisy_latents.dtype == half.velocity.dtype == torch.bfloat16
    assert half.timesteps.dtype == torch.float32
    torch.testing.assert_close(half.noisy_latents, wide.noisy_latents.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(half.velocity, wide.velocity.bfloat16(), rtol=0, atol=0)


def test_arguments_stay_as_they_were() -> None:
    clean, noise = pyramids()
    before = [tensor.clone() for tensor in (*clean, *noise)]
    sample_path(SCHEDULE, clean, noise, 1, torch.tensor([1, 2, 3, 4]))
    for tensor, copy in zip((*clean, *noise), before, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


def test_unknown_level_is_rejected() -> None:
    with pytest.raises(UserError, match="level is 3"):
        sample_path(SCHEDULE, *pyramids(), 3, torch.tensor([0, 0, 0, 0]))


def test_timestep_index_is_uniform_and_follows_its_generator() -> None:
    draws = sample_timestep_index(SCHEDULE, 20_000, torch.Generator().manual_seed(0))
    again = sample_timestep_index(SCHEDULE, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(draws, again)
    assert (draws.min(), draws.max()) == (0, 999)
    counts = torch.histc(draws.float(), bins=10, min=0, max=1000)
    assert counts.tolist() == pytest.approx([2000] * 10, abs=220)


def test_the_index_may_live_on_another_device() -> None:
    clean, noise = ([level.to("meta") for level in pyramid] for pyramid in pyramids())
    sample = sample_path(SCHEDULE, clean, noise, 1, torch.tensor([1, 2, 3, 4]))
    devices = {tensor.device.type for tensor in (sample.noisy_latents, sample.velocity, sample.timesteps)}
    assert devices == {"meta"}
