"""Which number format the forward pass uses; weights, moments and losses stay in 32 bits."""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from m4v.training.config import Precision
from m4v.training.loop import Objective


def _cpu_bf16_is_faster(size: int = 512, repeats: int = 6) -> bool:
    """Time a matrix product in both formats; slow emulation of bf16 is common on older CPUs."""

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(size, size, dtype=dtype)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


def choose_bf16(
    precision: Precision,
    device: torch.device,
    make_objective: Callable[[bool], Objective],
    agree: Callable[[bool], bool] = bool,
) -> bool:
    """Resolve a precision setting for one stage.

    `auto` is bf16 on CUDA. On a CPU with fast bf16 products the stage's own step is timed in both formats, because the
    answer differs between networks: convolutions gain, many small element-wise operations lose by the casts.

    Args:
        precision: The setting.
        device: Where the stage is trained.
        make_objective: Gives the stage's objective in bf16 or not; called only if a timing is needed.
        agree: Gives every rank the same of their answers: all time a step, or none does.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return agree(torch.cuda.is_bf16_supported())
    if device.type != "cpu" or not agree(_cpu_bf16_is_faster()):
        return False
    return agree(_step_seconds(make_objective(True)) < _step_seconds(make_objective(False)))


def _step_seconds(objective: Objective, repeats: int = 3) -> float:
    """Time a step's forward and backward pass; weights stay as they are, gradients end as zeros.

    Zeros, not absent gradients: the optimiser skips a parameter without gradient, and a resumed run, which is not timed
    again, must take the same steps.
    """
    batch = objective.batch(0)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for term in objective.terms(batch, 0):
            term.loss.backward()
        best = min(best, time.perf_counter() - start)
        for module in objective.modules.values():
            module.zero_grad(set_to_none=False)
    return best


def autocast(use_bf16: bool, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Context of the forward pass."""
    if not use_bf16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """On CUDA, allow TF32 and pick convolution kernels by timing for the duration; nothing changes on a CPU."""
    if device.type != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
