"""Which implementation attends over time: Triton kernels for prediction where scans use them, plain torch elsewhere."""

import torch
from torch import Tensor

from m4v.ops.scan_section.dispatch import Backend, choose_backend

MAX_TIMES = 128
"""Above, scores would not fit one tile, and plain matrix products are no worse."""
_WIDEST_OF_MANY = 256
"""Bytes of a head, from half of the times on: wider tiles would not fit the shared memory."""


def runs_kernels(values: Tensor, num_times: int, head_dim: int, backend: Backend = "auto") -> bool:
    """Whether `custom_op.time_attention` may stand for `reference.time_attention`; it has no gradients.

    Raises:
        UserError: if kernels are asked for that cannot run.
    """
    if torch.is_grad_enabled():
        return False
    is_wide = head_dim * values.dtype.itemsize > _WIDEST_OF_MANY
    if num_times > (MAX_TIMES // 2 if is_wide else MAX_TIMES):
        return False
    chosen: str = choose_backend(values.device, values.dtype, head_dim, head_dim, backend)
    return chosen == "triton"
