import pytest
import torch

from m4v.data.pixels import to_pixels
from m4v.training.config import PixelLossConfig
from m4v.training.pixel_loss import focus_weights, pixel_loss, psnr


def test_weights_have_mean_one_per_clip(pool):
    weights = focus_weights(to_pixels(pool.frames), focus=4.0)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3, 4)), torch.ones(len(pool)))


def test_the_moving_object_weighs_more_than_the_backdrop(pool):
    weights = focus_weights(to_pixels(pool.frames), focus=4.0)[0, 0]
    frames = pool.frames[0]
    backdrop = (frames == 190).all(dim=-1) | (frames == 90).all(dim=-1)
    assert weights[~backdrop].mean() > 3 * weights[backdrop].mean()


def test_focus_zero_is_the_plain_mix(pool):
    video = to_pixels(pool.frames)
    decoded = video + 0.1
    loss = pixel_loss(decoded, video, PixelLossConfig(l1_weight=0.5, mse_weight=2.0, focus=0.0))
    assert loss.item() == pytest.approx(0.5 * 0.1 + 2.0 * 0.01, rel=1e-4)


def test_a_constant_clip_weighs_all_pixels_alike():
    video = torch.full((1, 3, 5, 8, 8), 0.25)
    assert torch.equal(focus_weights(video, 4.0), torch.ones(1, 1, 5, 8, 8))


def test_psnr_of_known_errors():
    # Range 2, so an error of 0.2 everywhere is 20 dB.
    assert psnr(0.04) == pytest.approx(20.0)
    assert psnr(0.0) > 100
