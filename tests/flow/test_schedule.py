"""Schedule tables against the constants of the released Pyramid-Flow scheduler."""

import itertools
import math

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.schedule import PyramidSchedule

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())

# Timesteps after rounding to bf16, as the released model receives them.
TEN_STEPS = [
    [1000, 972, 944, 916, 888, 856, 828, 800, 772, 744],
    [744, 704, 664, 624, 584, 544, 506, 466, 426, 386],
    [386, 344, 300, 258, 215, 172, 130, 87, 44, 1.3828125],
]
TWENTY_STEPS = [
    [1000, 988, 972, 960, 948, 932, 920, 904, 892, 880, 864, 852, 840, 824, 812, 800, 784, 772, 756, 744],
    [744, 724, 708, 688, 668, 648, 632, 612, 592, 576, 556, 536, 520, 500, 480, 462, 442, 424, 406, 386],
    [386, 366, 346, 326, 306, 284, 264, 244, 224, 204, 184, 163, 143, 123, 102.5, 82.5, 62, 41.75, 21.625, 1.3828125],
]


def test_noise_shares_of_the_released_schedule() -> None:
    assert SCHEDULE.original_start_sigma == pytest.approx([1.0, 0.66699999571, 0.33399999142], abs=1e-10)
    assert SCHEDULE.start_sigma == pytest.approx([1.0, 0.80023995, 0.50074962], abs=1e-8)
    assert SCHEDULE.end_sigma == pytest.approx([0.66699999571, 0.33399999142, 0.0], abs=1e-10)
    lengths = [start - end for start, end in zip(SCHEDULE.start_sigma, SCHEDULE.end_sigma, strict=True)]
    assert lengths == pytest.approx([0.333, 0.46623996, 0.50074962], abs=1e-8)


def test_jump_factors_of_the_released_schedule() -> None:
    assert SCHEDULE.jump_alpha[1:] == pytest.approx([0.5998800255, 0.7496251922], abs=1e-10)
    assert SCHEDULE.jump_beta[1:] == pytest.approx([0.6930281249, 0.4336618880], abs=1e-10)


def test_timestep_tables_of_the_released_schedule() -> None:
    assert SCHEDULE.timesteps.shape == (3, 1000)
    assert SCHEDULE.timesteps[:, 0].tolist() == [1000, 744, 386]
    assert SCHEDULE.timesteps[:, -1].tolist() == pytest.approx([744.25598, 386.358, 1.38501], abs=2e-5)
    assert (SCHEDULE.timesteps.diff(dim=1) < 0).all()
    assert SCHEDULE.level_sigmas.shape == (1000,)
    assert SCHEDULE.level_sigmas[0] == 1
    assert SCHEDULE.level_sigmas[-1] == pytest.approx(0.001, abs=1e-8)


def test_timesteps_are_shared_by_the_noise_each_level_removes() -> None:
    """Cumulative shares 0.2561559 and 0.6148049 of the noise, cut to whole timesteps: 1000, 744, 386, 1."""
    lengths = [0.333, 0.46623996, 0.50074962]
    shares = [sum(lengths[:count]) / sum(lengths) for count in (1, 2)]
    assert shares == pytest.approx([0.2561559, 0.6148049], abs=1e-7)
    edges = [1000 - int(1000 * share) for share in (0.0, *shares)] + [1]
    assert edges == [1000, 744, 386, 1]
    for level, (first, last) in enumerate(itertools.pairwise(edges)):
        expected = [first + (last - first) * row / 1000 for row in range(1000)]
        assert SCHEDULE.timesteps[level].tolist() == pytest.approx(expected, abs=5e-5)


def test_the_clock_of_ten_steps() -> None:
    """Even steps from 1 to 0.001, and a last short one to 0; the same on every level."""
    expected = [1 - 0.111 * step for step in range(10)] + [0.0]
    for level in range(3):
        assert SCHEDULE.inference_steps(level, 10).level_sigmas.tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("expected", [TEN_STEPS, TWENTY_STEPS], ids=["10 steps", "20 steps"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_inference_timesteps_in_bf16(expected: list[list[float]], level: int) -> None:
    steps = SCHEDULE.inference_steps(level, len(expected[level]))
    assert steps.timesteps.bfloat16().tolist() == expected[level]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_inference_clock_runs_from_one_to_zero(num_steps: int) -> None:
    steps = SCHEDULE.inference_steps(1, num_steps)
    assert len(steps) == num_steps
    assert steps.level_sigmas.shape == (num_steps + 1,)
    assert steps.level_sigmas[0] == 1
    assert steps.level_sigmas[-1] == 0
    assert (steps.level_sigmas.diff() < 0).all()
    assert steps.timesteps[0] == 744
    if num_steps > 1:
        assert steps.timesteps[-1] == SCHEDULE.timesteps[1, -1]
        assert steps.level_sigmas[-2] == pytest.approx(0.001, abs=1e-8)


def test_thousand_inference_steps_are_the_training_table() -> None:
    steps = SCHEDULE.inference_steps(2, 1000)
    torch.testing.assert_close(steps.timesteps, SCHEDULE.timesteps[2])
    torch.testing.assert_close(steps.level_sigmas[:-1], SCHEDULE.level_sigmas)


def test_shift_moves_level_edges_to_more_noise() -> None:
    shifted = PyramidSchedule.from_config(PyramidFlowConfig(shift=3.0))
    assert shifted.original_start_sigma[1] == pytest.approx(3 * 0.667 / (1 + 2 * 0.667), abs=1e-6)
    assert shifted.start_sigma[0] == 1


@pytest.mark.parametrize("gamma", [0.05, 0.2, 1 / 3])
@pytest.mark.parametrize("num_levels", [2, 3, 4])
def test_jump_keeps_signal_and_restores_white_noise(gamma: float, num_levels: int) -> None:
    """The factors satisfy the two moment equations of the jump for every gamma, and the signal share follows."""
    config = PyramidFlowConfig(
        num_levels=num_levels, level_range=PyramidFlowConfig.with_equal_levels(num_levels).level_range, gamma=gamma
    )
    schedule = PyramidSchedule.from_config(config)
    for level in range(1, num_levels):
        alpha, beta, sigma = schedule.jump_alpha[level], schedule.jump_beta[level], schedule.end_sigma[level - 1]
        upsampled_variance = (alpha * sigma) ** 2
        assert upsampled_variance - gamma * beta**2 == pytest.approx(0, abs=1e-12)
        assert upsampled_variance + beta**2 == pytest.approx(schedule.start_sigma[level] ** 2, rel=1e-12)
        assert alpha * (1 - sigma) == pytest.approx(1 - schedule.start_sigma[level], rel=1e-12)


def test_one_level_is_plain_flow_matching() -> None:
    schedule = PyramidSchedule.from_config(PyramidFlowConfig.with_equal_levels(1))
    assert (schedule.start_sigma, schedule.end_sigma) == ((1.0,), (0.0,))
    assert schedule.timesteps[0, 0] == 1000
    assert math.isclose(schedule.timesteps[0, -1].item(), 1.999, abs_tol=1e-4)


@pytest.mark.parametrize("level", [-1, 3])
def test_unknown_level_is_rejected(level: int) -> None:
    with pytest.raises(UserError, match="expected 0 to 2"):
        SCHEDULE.inference_steps(level, 10)


def test_no_steps_are_rejected() -> None:
    with pytest.raises(UserError, match="steps is 0"):
        SCHEDULE.inference_steps(0, 0)
