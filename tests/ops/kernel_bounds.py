"""Watches interpreted kernels: every address they read or write must lie inside one of their arguments.

On a GPU an access elsewhere may hit other memory, and be silent, or none, and end the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from triton.runtime import interpreter


class OutOfBoundsError(AssertionError):
    """A kernel touched memory that no argument of it owns."""


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


@contextmanager
def kernel_bounds() -> Iterator[None]:
    """Check all kernels that run in the interpreter.

    Raises:
        OutOfBoundsError: from a kernel that touches what is not its argument's; Triton may wrap it in its own error.
    """
    extents: list[tuple[int, int]] = []
    kernel: list[str] = []
    prepare, builder = interpreter.GridExecutor._init_args_hst, interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def remember(self: Any, args: Any, kwargs: Any) -> Any:
        args_hst, kwargs_hst = prepare(self, args, kwargs)
        tensors = [arg for arg in (*args_hst, *kwargs_hst.values()) if isinstance(arg, torch.Tensor) and arg.numel()]
        extents[:] = [_extent(tensor) for tensor in tensors]
        kernel[:] = [self.fn.__name__]
        return args_hst, kwargs_hst

    def check(pointers: Any, mask: Any, access: str) -> None:
        size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        addresses = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))
        addresses = addresses[np.broadcast_to(mask.data, addresses.shape).astype(bool)].astype(np.uint64)
        inside = np.zeros(addresses.shape, dtype=bool)
        for begin, end in extents:
            inside |= (addresses >= begin) & (addresses + np.uint64(size) <= end)
        if not inside.all():
            raise OutOfBoundsError(f"{kernel[0]} {access} {int((~inside).sum())} elements outside of its arguments")

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask, "reads")
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask, "writes")
        return store(self, pointers, value, mask, *rest)

    with (
        mock.patch.object(interpreter.GridExecutor, "_init_args_hst", remember),
        mock.patch.object(builder, "create_masked_load", checked_load),
        mock.patch.object(builder, "create_masked_store", checked_store),
    ):
        yield
