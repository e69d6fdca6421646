"""Preparation of frames against the same thing written in numpy."""

import numpy as np
import pytest
import torch

from m4v.rewards.preprocessing import CLIP_MEAN, CLIP_STD, Preparation, resize


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, as antialiased bicubic resizing uses it."""
    x, a = np.abs(distance), -0.5
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(before: int, after: int) -> np.ndarray:
    """Rows of a resizing matrix: the kernel is widened where pixels are lost, and normalised at the border."""
    scale = before / after
    width = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    table = cubic((np.arange(before)[None] + 0.5 - centres[:, None]) / width)
    return table / table.sum(axis=1, keepdims=True)


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.einsum("yh,nchw,xw->ncyx", weights(pixels.shape[2], height), pixels, weights(pixels.shape[3], width))


def normalised(pixels: np.ndarray) -> np.ndarray:
    return (pixels - np.array(CLIP_MEAN)[:, None, None]) / np.array(CLIP_STD)[:, None, None]


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 3, 37, 61))


@pytest.mark.parametrize("size", [(12, 20), (37, 30), (80, 100)])
def test_resizing_equals_numpy(frames: np.ndarray, size: tuple[int, int]) -> None:
    ours = resize(torch.from_numpy(frames), size).numpy()
    np.testing.assert_allclose(ours, resized(frames, *size), atol=1e-6)


def test_cropping_equals_numpy(frames: np.ndarray) -> None:
    """37 x 61 to a side of 16: 16 x 26, of which columns 5 to 20 stay."""
    ours = Preparation(size=16)(torch.from_numpy(frames).float()).numpy()
    whole = resized((frames + 1) / 2, 16, 26).clip(0, 1)
    np.testing.assert_allclose(ours, normalised(whole[..., 5:21]), atol=2e-5)


def test_padding_equals_numpy(frames: np.ndarray) -> None:
    """37 x 61 to a side of 16: 10 x 16 between black bars of 3 rows; black before the mean is taken off."""
    ours = Preparation(size=16, fit="pad")(torch.from_numpy(frames).float()).numpy()
    square = np.zeros((2, 3, 16, 16))
    square[:, :, 3:13] = resized((frames + 1) / 2, 10, 16).clip(0, 1)
    np.testing.assert_allclose(ours, normalised(square), atol=2e-5)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(64, 64), (384, 640), (5, 7), (30, 20)])
def test_any_size_becomes_the_square(fit: str, shape: tuple[int, int]) -> None:
    made = Preparation(size=24, fit=fit)(torch.zeros(1, 3, *shape))  # type: ignore[arg-type]
    assert made.shape == (1, 3, 24, 24)


def test_gradients_reach_all_pixels_that_are_kept() -> None:
    frames = torch.zeros(1, 3, 20, 32, requires_grad=True)
    Preparation(size=10)(frames).square().sum().backward()
    assert frames.grad is not None
    assert (frames.grad[..., 8:24].abs() > 0).all()
