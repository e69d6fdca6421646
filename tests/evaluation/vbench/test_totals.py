"""Totals of published models from their published raw scores."""

import math

import pytest

from m4v.core.errors import UserError
from m4v.evaluation.vbench.dimensions import DIMENSIONS, FAST_FOUR, FAST_SEVEN
from m4v.evaluation.vbench.totals import totals

# Raw scores in percent (subject, background, flicker, smoothness, dynamic, aesthetic, imaging, object, multiple,
# action, color, spatial, scene, appearance, temporal style, overall), then published and recomputed T / Q / S.
ORDER = """
subject_consistency background_consistency temporal_flickering motion_smoothness dynamic_degree aesthetic_quality
imaging_quality object_class multiple_objects human_action color spatial_relationship scene appearance_style
temporal_style overall_consistency
""".split()  # noqa: SIM905 - one list of names, read like the rows below
ROWS = {
    "VideoCrafter2": (
        "96.85 98.22 98.41 97.73 42.50 63.13 67.22 92.55 40.66 95.00 92.92 35.86 55.29 25.13 25.84 28.23",
        (80.44, 82.20, 73.42),
        (80.4414, 82.1971, 73.4182),
    ),
    "Gen-3 Alpha": (
        "97.10 96.62 98.61 99.23 60.14 63.34 66.82 87.81 53.64 96.40 80.90 65.09 54.57 24.31 24.71 26.69",
        (82.32, 84.11, 75.17),
        (82.3228, 84.1112, 75.1690),
    ),
    "HunyuanVideo": (
        "97.37 97.76 99.44 98.99 70.83 60.36 67.56 86.10 68.55 94.40 91.60 68.68 53.88 19.80 23.89 26.44",
        (83.24, 85.09, 75.82),
        (83.2384, 85.0929, 75.8206),
    ),
    "Open-Sora 1.2": (
        "96.75 97.61 99.53 98.50 42.39 56.85 63.34 82.22 51.83 91.20 90.08 68.56 42.44 23.95 24.54 26.85",
        (79.76, 81.35, 73.39),
        (79.7597, 81.3517, 73.3918),
    ),
    "Pyramid Flow": (
        "96.95 98.06 99.49 99.12 64.63 63.26 65.01 86.67 50.71 85.60 82.87 59.53 43.20 20.91 23.09 26.23",
        (81.72, 84.74, 69.62),
        (81.7206, 84.7460, 69.6191),
    ),
    "Kling": (
        "98.33 97.60 99.30 99.40 46.94 61.21 65.62 87.24 68.05 93.40 89.90 73.03 50.86 19.62 24.17 26.42",
        (81.85, 83.39, 75.68),
        (81.8435, 83.3854, 75.6761),
    ),
}
RAW = {
    name: dict(zip(ORDER, (float(value) / 100 for value in row[0].split()), strict=True)) for name, row in ROWS.items()
}


@pytest.mark.parametrize("name", ROWS)
def test_published_totals_follow_from_published_scores(name: str) -> None:
    found = totals(RAW[name])
    _, published, recomputed = ROWS[name]
    for value, printed, exact in zip((found.total, found.quality, found.semantic), published, recomputed, strict=True):
        assert abs(value - printed) < 0.014
        assert abs(value - exact) < 1e-4


@pytest.mark.parametrize("name", DIMENSIONS)
def test_no_dimension_may_be_missing(name: str) -> None:
    raw = {key: value for key, value in RAW["Kling"].items() if key != name}
    with pytest.raises(UserError, match=name):
        totals(raw)


@pytest.mark.parametrize("bad", [67.22, -0.1, math.nan])
def test_scores_are_shares(bad: float) -> None:
    with pytest.raises(UserError, match="imaging_quality"):
        totals({**RAW["Kling"], "imaging_quality": bad})


def test_an_unknown_dimension_is_named() -> None:
    with pytest.raises(UserError, match="camera_motion"):
        totals({**RAW["Kling"], "camera_motion": 0.5})


def test_the_bounds_of_normalisation_are_0_and_1() -> None:
    for dimension in DIMENSIONS.values():
        assert dimension.normalise(dimension.low) == 0
        assert dimension.normalise(dimension.high) == 1
    perfect = totals({name: dimension.high for name, dimension in DIMENSIONS.items()})
    assert (perfect.quality, perfect.semantic, perfect.total) == pytest.approx((100, 100, 100))
    assert set(FAST_FOUR) < set(FAST_SEVEN) < set(DIMENSIONS)
