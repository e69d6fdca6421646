"""The kernels as one torch operator, so that `torch.compile` and fake tensors know them; for prediction only."""

import torch
from torch import Tensor

from m4v.ops.time_attention import launch
from m4v.ops.time_attention.interface import HeadNorms


def time_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    num_times: int,
    mask: Tensor | None = None,
    norms: HeadNorms | None = None,
) -> Tensor:
    """The same as `reference.time_attention`, by kernels."""
    query_norm, key_norm, eps = norms or (None, None, 0.0)
    mixed: Tensor = _forward(query, key, value, gate, num_times, mask, query_norm, key_norm, eps)
    return mixed


@torch.library.custom_op("m4v::time_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    num_times: int,
    visible: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> Tensor:
    return launch.forward(query, key, value, gate, num_times, visible, query_norm, key_norm, eps)


@_forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    num_times: int,
    visible: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> Tensor:
    batch, num_cells, num_heads, head_dim = value.shape
    return value.new_empty(batch, num_cells, num_heads * head_dim, dtype=torch.promote_types(value.dtype, gate.dtype))
