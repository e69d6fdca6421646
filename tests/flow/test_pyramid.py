"""Spatial pyramids against torch's own resampling and the statistics of white noise."""

import pytest
import torch
from torch.nn.functional import interpolate

from m4v.core.errors import UserError
from m4v.flow.pyramid import downsample, latent_pyramid, noise_pyramid, split_frames, upsample_nearest


def random_latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (2, 8)])
def test_resampling_equals_torch_frame_by_frame(size: tuple[int, int]) -> None:
    latents = random_latents(2, 3, 5, *size)
    halved, doubled = downsample(latents), upsample_nearest(latents)
    for frame in range(5):
        bilinear = interpolate(latents[:, :, frame], scale_factor=0.5, mode="bilinear", align_corners=False)
        torch.testing.assert_close(halved[:, :, frame], bilinear)
        nearest = interpolate(latents[:, :, frame], scale_factor=2, mode="nearest")
        torch.testing.assert_close(doubled[:, :, frame], nearest, rtol=0, atol=0)


def test_downsampling_undoes_upsampling() -> None:
    latents = random_latents(1, 2, 3, 4, 6)
    torch.testing.assert_close(downsample(upsample_nearest(latents)), latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pyramid_order_and_types(dtype: torch.dtype) -> None:
    latents = random_latents(1, 2, 3, 8, 16).to(dtype)
    pyramid = latent_pyramid(latents, 3)
    assert [tuple(level.shape[-2:]) for level in pyramid] == [(2, 4), (4, 8), (8, 16)]
    assert all(level.dtype == dtype for level in pyramid)
    assert pyramid[-1] is latents
    torch.testing.assert_close(pyramid[0].mean(), latents.mean(), rtol=0.05, atol=0.01)


def test_noise_levels_are_white_and_of_unit_variance() -> None:
    levels = noise_pyramid(random_latents(8, 4, 4, 64, 64), 3)
    for level in levels:
        assert level.var().item() == pytest.approx(1, abs=0.05)
        assert (level[..., 1:] * level[..., :-1]).mean().item() == pytest.approx(0, abs=0.02)
        assert (level[..., 1:, :] * level[..., :-1, :]).mean().item() == pytest.approx(0, abs=0.02)


def test_noise_levels_are_scaled_latent_levels() -> None:
    noise = random_latents(1, 2, 1, 8, 8)
    for steps, (scaled, plain) in enumerate(
        zip(noise_pyramid(noise, 3)[::-1], latent_pyramid(noise, 3)[::-1], strict=True)
    ):
        torch.testing.assert_close(scaled, plain * 2**steps)


def test_frames_are_split_oldest_first() -> None:
    pyramid = latent_pyramid(random_latents(2, 3, 4, 8, 8), 3)
    frames = split_frames(pyramid)
    assert len(frames) == 4
    for index, frame in enumerate(frames):
        for level in range(3):
            torch.testing.assert_close(frame[level], pyramid[level][:, :, index], rtol=0, atol=0)


@pytest.mark.parametrize("size", [(5, 4), (4, 7)])
def test_odd_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}"):
        downsample(random_latents(1, 1, 1, *size))
    with pytest.raises(UserError, match="divisible by 2"):
        latent_pyramid(random_latents(1, 1, 1, 6, 6), 3)
