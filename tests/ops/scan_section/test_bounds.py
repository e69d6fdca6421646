"""The watchdog over addresses, which the kernels' tests run under, bites."""

import pytest
import torch
from triton.runtime.interpreter import InterpreterError

from tests.ops.kernel_bounds import kernel_bounds
from tests.ops.stray_kernel import one_too_far_kernel


def test_a_stray_address_is_noticed() -> None:
    wider = torch.zeros(16)
    with kernel_bounds():
        with pytest.raises(InterpreterError, match="reads 1 elements outside"):
            one_too_far_kernel[(1,)](wider[:8], torch.zeros(8), WIDTH=8)
        one_too_far_kernel[(1,)](wider, torch.zeros(8), WIDTH=8)
