"""The kernels as torch operators, so that autograd, `torch.compile`, checkpointing and fake tensors know them."""

from typing import Any

import torch
from torch import Tensor

from m4v.ops.scan_section import launch, launch_backward
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput, kernel_index
from m4v.ops.scan_section.launch import SectionInputs
from m4v.ops.scan_section.launch_backward import SectionGradients

# Up to here a single program per head walks the whole sequence: two launches fewer count for more than idle processors.
_ONE_SEGMENT = 512
_SHORTEST_SEGMENT = 256
# Programs that keep a data-centre GPU busy: four for each of 132 multiprocessors. More shorten no kernel that walks
# segments, and lengthen the scan over them (measured on an H100 at 15,488 and 65,408 tokens).
_ENOUGH_PROGRAMS = 528
_GATE_EPS = 1e-5


def segment_tokens(num_tokens: int, num_scans: int) -> int:
    """Scan positions per segment, for `num_scans` heads of all samples: the shortest that does not flood the GPU.

    Powers of two, so that lengths close to each other are handled alike and no length is ever compiled in.
    """
    if num_tokens <= _ONE_SEGMENT:
        return _ONE_SEGMENT
    segment = _SHORTEST_SEGMENT
    while num_scans * -(-num_tokens // segment) > _ENOUGH_PROGRAMS:
        segment *= 2
    return segment


def scan_section(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
    initial_state: Tensor | None = None,
) -> SectionOutput:
    """The same as `reference.scan_section`, by kernels."""
    index = order.kernel_index or kernel_index(order.rows, order.is_real)
    cos, sin = order.rotary or (None, None)
    mixed, final_state, _ = _forward(
        rows,
        register_rows.to(rows.dtype),
        dt,
        register_dt.to(dt.dtype),
        *weights,
        initial_state,
        cos,
        sin,
        *index,
        segment_tokens(index.source.shape[1], dt.shape[0] * dt.shape[2]),
        options.conv_silu,
        options.discretisation == "zoh",
        options.norm_eps,
        _GATE_EPS,
    )
    return SectionOutput(mixed, final_state)


@torch.library.custom_op("m4v::scan_section", mutates_args=())
def _forward(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    conv_weight: Tensor | None,
    conv_bias: Tensor | None,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    norm_b: Tensor | None,
    norm_c: Tensor | None,
    initial_state: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    source: Tensor,
    destination: Tensor,
    register_kinds: Tensor,
    num_copies: int,
    segment_tokens: int,
    conv_silu: bool,
    zero_order_hold: bool,
    norm_eps: float,
    gate_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.forward(
        SectionInputs(
            rows, register_rows, dt, register_dt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, norm_b,
            norm_c, initial_state, cos, sin, source, destination, register_kinds, num_copies, segment_tokens, conv_silu,
            zero_order_hold, norm_eps, gate_eps,
        )
    )  # fmt: skip


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = SectionInputs(*arguments)
    mixed = a.rows.new_empty(a.batch, a.num_rows, a.num_heads * a.head_dim)
    final = mixed.new_empty(a.batch, a.num_heads, a.state_dim, a.head_dim, dtype=torch.float32)
    entering = final.new_empty(0)
    if a.num_segments > 1:
        entering = final.new_empty(a.batch, a.num_heads, a.num_segments, a.state_dim, a.head_dim)
    return mixed, final.transpose(-1, -2), entering


@torch.library.custom_op("m4v::scan_section_backward", mutates_args=())
def _backward(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    conv_weight: Tensor | None,
    conv_bias: Tensor | None,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    norm_b: Tensor | None,
    norm_c: Tensor | None,
    initial_state: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    source: Tensor,
    destination: Tensor,
    register_kinds: Tensor,
    num_copies: int,
    segment_tokens: int,
    conv_silu: bool,
    zero_order_hold: bool,
    norm_eps: float,
    gate_eps: float,
    entering: Tensor,
    final_state: Tensor,
    mixed_grad: Tensor,
    final_grad: Tensor | None,
) -> list[Tensor]:
    inputs = SectionInputs(
        rows, register_rows, dt, register_dt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, norm_b, norm_c,
        initial_state, cos, sin, source, destination, register_kinds, num_copies, segment_tokens, conv_silu,
        zero_order_hold, norm_eps, gate_eps,
    )  # fmt: skip
    return list(launch_backward.backward(inputs, entering, final_state, mixed_grad, final_grad))


@_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    a = SectionInputs(*arguments[: len(SectionInputs._fields)])
    given = [getattr(a, name) for name in SectionGradients._fields]
    grads = [a.rows.new_empty(0 if like is None else like.shape, dtype=_dtype(like)) for like in given]
    if a.initial_state is not None:
        grads[-1] = a.initial_state.new_empty(a.initial_state.transpose(-1, -2).shape).transpose(-1, -2)
    return grads


def _dtype(like: Tensor | None) -> torch.dtype:
    return torch.float32 if like is None else like.dtype


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, final_state, entering = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(entering)
    a = SectionInputs(*inputs)
    ctx.settings = a[SectionInputs._fields.index("num_copies") :]
    ctx.save_for_backward(*a[: len(a) - len(ctx.settings)], entering, final_state)


def _differentiate(ctx: Any, mixed_grad: Tensor | None, final_grad: Tensor | None, _: None) -> tuple[Any, ...]:
    *tensors, entering, final_state = ctx.saved_tensors
    a = SectionInputs(*tensors, *ctx.settings)
    if mixed_grad is None:
        mixed_grad = a.rows.new_zeros(a.batch, a.num_rows, a.num_heads * a.head_dim)
    grads = SectionGradients(*_backward(*a, entering, final_state, mixed_grad, final_grad))
    wanted = (name in SectionGradients._fields and getattr(a, name) is not None for name in SectionInputs._fields)
    return tuple(getattr(grads, name) if has else None for name, has in zip(SectionInputs._fields, wanted, strict=True))


_forward.register_autograd(_differentiate, setup_context=_save)
