"""A kernel with a fault, for the test of the watchdog."""

import triton
import triton.language as tl


@triton.jit
def one_too_far_kernel(source_ptr, target_ptr, WIDTH: tl.constexpr):
    """Copy, one element beside."""
    index = tl.arange(0, WIDTH)
    tl.store(target_ptr + index, tl.load(source_ptr + index + 1, mask=index >= 0), mask=index >= 0)
