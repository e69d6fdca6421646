"""The shared comparisons themselves: a check that cannot fail is worth nothing."""

import pytest
import torch

from tests.assertions import assert_relative_close, nan_poisoned_memory, relative_error


def test_relative_error_is_relative_to_the_expected_value() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert relative_error(expected * 1.01, expected) == pytest.approx(0.01, rel=1e-4)
    assert relative_error(1000 * expected * 1.01, 1000 * expected) == pytest.approx(0.01, rel=1e-4)


def test_a_difference_a_nan_and_a_shape_all_fail() -> None:
    expected = torch.ones(3)
    assert_relative_close(expected.clone(), expected, 0.0)
    with pytest.raises(AssertionError, match="relative error"):
        assert_relative_close(expected * 1.1, expected, 0.05)
    with pytest.raises(AssertionError, match="inf"):
        assert_relative_close(torch.tensor([1.0, float("nan"), 1.0]), expected, 1e9)
    with pytest.raises(AssertionError, match="shape"):
        assert_relative_close(torch.ones(1), expected, 1.0)


def test_uninitialised_memory_is_poisoned_only_inside_the_block() -> None:
    with nan_poisoned_memory():
        assert torch.empty(1000).isnan().all()
        assert torch.ones(4).new_empty(1000).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
