"""Quick scaling against Pillow's, which is the definition."""

import numpy as np
import pytest

from m4v.data.resizing import fit_picture
from m4v.media.images import resize_cover


@pytest.mark.parametrize(
    ("source", "target"),
    [((72, 128), (36, 64)), ((72, 128), (40, 40)), ((48, 64), (48, 64)), ((48, 80), (48, 64))],
)
def test_it_is_pillows_scaling_up_to_two_levels(source: tuple[int, int], target: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: source[0], : source[1]]
    waves = [np.sin(rows / 5 + colour) * np.cos(columns / 7 - colour) for colour in range(3)]
    image = (127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    fitted, expected = fit_picture(image, *target), resize_cover(image, *target)
    assert fitted.shape == (*target, 3)
    difference = np.abs(fitted.astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_edges_between_pixels_are_rounded() -> None:
    image = np.arange(30, dtype=np.uint8)[:, None, None].repeat(20, 1).repeat(3, 2) * 8
    fitted = fit_picture(image, 64, 48).astype(int)  # rows 1.67 to 28.33 would be the exact part
    assert np.abs(fitted - resize_cover(image, 64, 48)).max() <= 8  # less than one row
    assert (np.diff(fitted[:, 0, 0]) >= 0).all()


def test_the_centre_is_kept_and_the_result_is_the_callers_own() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    fitted = fit_picture(image, 20, 20)
    assert (fitted == 200).all()
    fitted[:] = 0
    assert image.max() == 200


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (3, 7)])
def test_odd_and_extreme_sizes(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 77, np.uint8)
    assert (fit_picture(image, 16, 24) == 77).all()
