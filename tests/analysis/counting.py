"""Operations of real networks as torch counts them: the truth that analytic counts are held against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count every matrix product and convolution.

    Attention runs as plain products here, because torch has no count for the CPU's fused kernel.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        yield counter


def flops_of(function: Callable[[], object]) -> int:
    """Run a function and count."""
    with counted() as counter:
        function()
    return counter.get_total_flops()
