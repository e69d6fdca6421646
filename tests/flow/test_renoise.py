"""The jump between levels: measured covariances against the law, exactness at gamma = 1/3, determinism."""

import math

import pytest
import torch
from einops import rearrange

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.pyramid import upsample_nearest
from m4v.flow.renoise import block_noise, jump
from m4v.flow.schedule import PyramidSchedule

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())
IDENTITY, ONES = torch.eye(4), torch.ones(4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(latents: torch.Tensor) -> torch.Tensor:
    """Gather every 2 x 2 block as one row of four values."""
    return rearrange(latents, "... (h p) (w q) -> (... h w) (p q)", p=2, q=2)


@pytest.mark.parametrize("gamma", [0.05, 0.25, 1 / 3])
def test_block_noise_covariance(gamma: float) -> None:
    noise = block_noise(torch.randn(8, 4, 2, 128, 128, generator=generator()), gamma)
    measured = torch.cov(blocks(noise).T)
    torch.testing.assert_close(measured, (1 + gamma) * IDENTITY - gamma * ONES, rtol=0, atol=0.012)


@pytest.mark.parametrize("gamma", [0.05, 0.25, 1 / 3])
def test_block_noise_is_the_exact_square_root(gamma: float) -> None:
    """Feeding unit impulses reads out the linear map; its square is the covariance."""
    impulses = rearrange(IDENTITY, "n (h w) -> n 1 1 h w", h=2)
    root = blocks(block_noise(impulses, gamma))
    torch.testing.assert_close(root, root.T)
    torch.testing.assert_close(root @ root, (1 + gamma) * IDENTITY - gamma * ONES, rtol=0, atol=1e-6)


def test_released_gamma_removes_block_means() -> None:
    white = torch.randn(2, 3, 1, 8, 8, generator=generator())
    means = blocks(white).mean(1, keepdim=True)
    torch.testing.assert_close(blocks(block_noise(white, 1 / 3)), math.sqrt(4 / 3) * (blocks(white) - means))


def test_different_blocks_are_independent() -> None:
    noise = block_noise(torch.randn(8, 4, 2, 128, 128, generator=generator()), 1 / 3)
    across = noise[..., 1:-1:2] * noise[..., 2::2]
    assert across.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("level", "variance"), [(1, 0.64038), (2, 0.25075)])
def test_noise_is_white_after_the_jump(level: int, variance: float) -> None:
    """Noise alone enters with the level's end share; it leaves uncorrelated with the corrected start share."""
    end_sigma = SCHEDULE.end_sigma[level - 1]
    coarse = end_sigma * torch.randn(8, 4, 2, 64, 64, generator=generator(1))
    after = jump(SCHEDULE, coarse, level, generator(2))
    covariance = torch.cov(blocks(after).T)
    torch.testing.assert_close(covariance, variance * IDENTITY, rtol=0, atol=0.012)
    # The same blocks before the jump's noise: fully correlated.
    before = torch.cov(blocks(upsample_nearest(coarse)).T)
    torch.testing.assert_close(before, end_sigma**2 * ONES, rtol=0, atol=0.012)


@pytest.mark.parametrize("level", [1, 2])
def test_signal_is_scaled_to_the_corrected_share(level: int) -> None:
    signal = torch.full((1, 1, 1, 64, 64), 1 - SCHEDULE.end_sigma[level - 1])
    after = jump(SCHEDULE, signal, level, generator())
    means = blocks(after).mean(1)
    torch.testing.assert_close(means, torch.full_like(means, 1 - SCHEDULE.start_sigma[level]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_given_generator_matters(dtype: torch.dtype) -> None:
    latents = torch.randn(1, 2, 3, 4, 6, generator=generator()).to(dtype)
    before = latents.clone()
    torch.manual_seed(0)
    first = jump(SCHEDULE, latents, 1, generator(7))
    torch.manual_seed(1)
    second = jump(SCHEDULE, latents, 1, generator(7))
    assert torch.equal(first, second)
    assert not torch.equal(first, jump(SCHEDULE, latents, 1, generator(8)))
    assert first.shape == (1, 2, 3, 8, 12)
    assert first.dtype == dtype
    assert torch.equal(latents, before)


def test_precision_changes_rounding_only() -> None:
    latents = torch.randn(1, 2, 3, 4, 6, generator=generator()).bfloat16()
    half, wide = (jump(SCHEDULE, latents.to(dtype), 2, generator(7)) for dtype in (torch.bfloat16, torch.float32))
    torch.testing.assert_close(half, wide.bfloat16(), rtol=0, atol=0)


def test_one_draw_per_jump() -> None:
    """After a jump the generator stands where one draw of the whole fine tensor leaves it."""
    used, expected = generator(3), generator(3)
    jump(SCHEDULE, torch.zeros(2, 3, 2, 4, 4), 1, used)
    torch.randn(2, 3, 2, 8, 8, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


@pytest.mark.parametrize("level", [0, 3])
def test_only_levels_above_the_coarsest_can_be_entered(level: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 2"):
        jump(SCHEDULE, torch.zeros(1, 1, 1, 2, 2), level, generator())


def test_the_generator_may_live_on_another_device() -> None:
    assert jump(SCHEDULE, torch.zeros(1, 2, 1, 4, 4, device="meta"), 1, generator()).device.type == "meta"
