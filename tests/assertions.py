"""Comparisons and fault injection shared by the tests."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Compute the root-mean-square difference over the root-mean-square of `expected`, in float64.

    NaN anywhere gives infinity, so that no comparison with a tolerance can pass by accident.
    """
    difference = (actual.detach().double() - expected.detach().double()).square().mean().sqrt().item()
    scale = expected.detach().double().square().mean().sqrt().item()
    if difference != difference or scale != scale:
        return float("inf")
    return difference / max(scale, 1e-30)


def assert_relative_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "value") -> None:
    """Fail unless the shapes agree and the relative error is at most `tolerance`."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{what}: relative error {error:.3e} is above {tolerance:.1e}"


@contextlib.contextmanager
def nan_poisoned_memory() -> Iterator[None]:
    """Fill memory that torch hands out uninitialised (`empty`, `new_empty`, ...) with NaN.

    Code that reads what it never wrote then gives NaN instead of yesterday's right answer.
    """
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)
