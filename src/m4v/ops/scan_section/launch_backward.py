"""Launches of the backward kernels, and the sums over programs that follow them, in the same order on every run."""

from typing import NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from m4v.ops.scan_section.kernels_backward import (
    gate_backward_kernel,
    input_vector_kernel,
    output_vector_kernel,
    value_kernel,
)
from m4v.ops.scan_section.kernels_prepare_backward import activation_backward_kernel, scatter_rows_kernel
from m4v.ops.scan_section.kernels_scan import scan_kernel
from m4v.ops.scan_section.launch import (
    Prepared,
    SectionInputs,
    as_tiles,
    or_stand_in,
    prepare,
    prepare_options,
    segment_states,
)

SPAN = 256
"""Scan positions per program that goes back through norm and activation: many to sum over, few to wait for."""


class SectionGradients(NamedTuple):
    """Gradients of the differentiable inputs, each in its input's dtype; empty where the input is absent."""

    rows: Tensor
    register_rows: Tensor
    dt: Tensor
    register_dt: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    norm_weight: Tensor
    norm_b: Tensor
    norm_c: Tensor
    initial_state: Tensor


class _RowGradients(NamedTuple):
    """Gradients of rows in token order, and beside them in fp32 those of rows that the scan reads more than once.

    Beside: first copies of text rows, second copies, registers one by one.
    """

    direct: Float[Tensor, "b n f"]
    side: Float[Tensor, "b side f"]

    @classmethod
    def like(cls, a: SectionInputs, tensor: Tensor) -> "_RowGradients":
        num_side = 2 * a.num_copies + a.register_kinds.shape[0]
        # Zeros, because registers have no gate.
        side = tensor.new_zeros(a.batch, num_side, tensor.shape[2], dtype=torch.float32)
        return cls(tensor.new_empty(tensor.shape), side)

    def collect(self, a: SectionInputs, registers: Tensor) -> Tensor:
        """Add text copies into `direct` and return the gradients of registers.

        The sum over registers is a product with a selector, in float64 so that it does not depend on TF32 settings.
        """
        text, copies, occurrences = self.side.split([a.num_copies, a.num_copies, a.register_kinds.shape[0]], dim=1)
        self.direct[:, : a.num_copies] = text + copies
        kinds = torch.arange(registers.shape[0], device=registers.device)
        selector = a.register_kinds == kinds[:, None]
        summed: Tensor = selector.double() @ occurrences.double().sum(0)
        return summed.to(registers.dtype)


class _ScanGradients(NamedTuple):
    """Gradients of what the scan reads, in scan order; those of A and D by program."""

    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    A: Float[Tensor, "b g segments"]
    D: Float[Tensor, "b g segments"]
    initial_state: Float[Tensor, "b g s p"]


def backward(
    inputs: SectionInputs, entering: Tensor, final_state: Tensor, mixed_grad: Tensor, final_grad: Tensor | None
) -> SectionGradients:
    """Gradients of `launch.forward`; everything but the states is computed again.

    Args:
        entering: Third result of `forward`.
        final_state: Second result of `forward`.
        mixed_grad: Gradient of the mixed rows.
        final_grad: Gradient of the final state; None for zero.
    """
    a = inputs.normalised()
    edge = entering if a.num_segments > 1 else as_tiles(a.initial_state)
    rows, steps = _RowGradients.like(a, a.rows), _RowGradients.like(a, a.dt)
    with torch.cuda.device_of(a.rows):
        operands = prepare(a)
        g, norm_weight = _gate_backward(a, operands, edge, mixed_grad.contiguous(), rows)
        scan = _scan_backward(a, operands, edge, final_state, as_tiles(final_grad), g)
        conv_weight, conv_bias, norm_b, norm_c = _activation_backward(a, scan)
        dt_bias = _scatter(a, scan, rows, steps)
        register_rows, register_dt = rows.collect(a, a.register_rows), steps.collect(a, a.register_dt)

    grads = {
        "rows": rows.direct,
        "register_rows": register_rows,
        "dt": steps.direct,
        "register_dt": register_dt,
        "conv_weight": conv_weight,
        "conv_bias": conv_bias,
        "A_log": scan.A.sum((0, 2)) * -torch.exp(a.A_log.float()),
        "D": scan.D.sum((0, 2)),
        "dt_bias": dt_bias,
        "norm_weight": norm_weight,
        "norm_b": norm_b,
        "norm_c": norm_c,
        "initial_state": scan.initial_state.transpose(-1, -2),
    }
    return SectionGradients(**{name: _as(grad, getattr(a, name)) for name, grad in grads.items()})


def _as(grad: Tensor, like: Tensor | None) -> Tensor:
    """In the dtype of the input; operators cannot return nothing, so an absent one has an empty gradient."""
    return grad.new_empty(0) if like is None else grad.to(like.dtype)


def _sweep(a: SectionInputs) -> dict[str, int | bool]:
    tiling = a.tiling
    return {
        "P": a.head_dim,
        "N": a.state_dim,
        "CHUNK": tiling.chunk,
        "ZOH": a.zero_order_hold,
        "num_warps": tiling.warps,
        "num_stages": tiling.sweep_stages,
    }


def _gate_backward(
    a: SectionInputs, operands: Prepared, edge: Tensor | None, mixed_grad: Tensor, rows: _RowGradients
) -> tuple[Tensor, Tensor]:
    """Gradients of the scan's outputs, in scan order, and of the norm's weight; those of z go to `rows`."""
    x, B, C, dt = operands
    y = torch.empty_like(x)
    scan_kernel[(a.num_segments, a.num_heads, a.batch)](
        a.rows, a.destination, x, B, C, dt, a.A_log, a.D, a.norm_weight, *or_stand_in(dt, edge), y, dt, a.num_tokens,
        a.num_rows, a.num_copies, a.num_heads, a.segment_tokens // a.tiling.chunk, a.rows.stride(0), a.rows.stride(1),
        a.gate_eps, HAS_ENTER=edge is not None, GATE=False, **_sweep(a),
    )  # fmt: skip
    blocks = triton.cdiv(a.num_tokens, a.tiling.block)
    norm_grad = dt.new_empty(a.batch, a.num_heads, blocks, a.head_dim)
    gate_backward_kernel[(blocks, a.num_heads, a.batch)](
        a.rows, mixed_grad, a.destination, y, a.norm_weight, *rows, norm_grad, a.num_tokens, a.num_rows, a.num_copies,
        rows.side.shape[1], a.num_heads, a.rows.stride(0), a.rows.stride(1), a.rows.shape[2], a.gate_eps,
        P=a.head_dim, TOKENS=a.tiling.block, num_warps=4,
    )  # fmt: skip
    return y, norm_grad.sum((0, 2))


def _scan_backward(
    a: SectionInputs, operands: Prepared, edge: Tensor | None, final_state: Tensor, leaving: Tensor | None, g: Tensor
) -> _ScanGradients:
    x, B, C, dt = operands
    final = as_tiles(final_state)
    if a.num_segments > 1:
        leaving = segment_states(a, C, g, dt, leaving, reverse=True)
    grads = _ScanGradients(
        x=torch.empty_like(x),
        B=torch.empty_like(B),
        C=torch.empty_like(C),
        dt=torch.empty_like(dt),
        A=dt.new_empty(a.batch, a.num_heads, a.num_segments),
        D=dt.new_empty(a.batch, a.num_heads, a.num_segments),
        initial_state=dt.new_empty(a.batch, a.num_heads, a.state_dim, a.head_dim),
    )
    reach = torch.empty_like(dt)
    programs = (a.num_segments, a.num_heads, a.batch)
    length = (a.num_tokens, a.num_heads, a.segment_tokens // a.tiling.chunk)
    enter, leave = or_stand_in(dt, edge, leaving)
    output_vector_kernel[programs](
        g, x, B, C, dt, a.A_log, enter, grads.C, reach, *length, HAS_ENTER=edge is not None, **_sweep(a)
    )
    value_kernel[programs](
        g, B, C, dt, a.A_log, a.D, leave, grads.x, grads.initial_state, *length, HAS_LEAVE=leaving is not None,
        **_sweep(a),
    )  # fmt: skip
    input_vector_kernel[programs](
        g, x, B, C, dt, reach, a.A_log, enter, final, leave, grads.B, grads.dt, grads.A, grads.D, *length,
        HAS_LEAVE=leaving is not None, **_sweep(a),
    )  # fmt: skip
    return grads


def _activation_backward(a: SectionInputs, scan: _ScanGradients) -> tuple[Tensor, ...]:
    """Turn gradients of x, B and C, in place, into those of the convolution's outputs; return those of its weights."""
    options = prepare_options(a)
    taps, channels = options["CONV_WIDTH"], a.rows.shape[2] - a.num_heads * a.head_dim
    spans = triton.cdiv(a.num_tokens, SPAN)
    programs = a.batch * spans
    sums = [
        scan.dt.new_empty(shape)
        for shape in ((programs, channels, taps), (programs, channels), *[(programs * a.num_heads, a.state_dim)] * 2)
    ]
    activation_backward_kernel[(spans, 3 * a.num_heads, a.batch)](
        a.rows, a.register_rows, a.source, *or_stand_in(a.rows, a.conv_weight, a.conv_bias),
        *or_stand_in(a.rows, a.norm_b, a.norm_c, a.cos, a.sin), scan.x, scan.B, scan.C, *sums, a.num_tokens,
        a.num_rows, a.num_heads, SPAN, a.rows.stride(0), a.rows.stride(1), a.register_rows.stride(0),
        a.norm_eps, P=a.head_dim, N=a.state_dim, TOKENS=a.tiling.block, TAPS=triton.next_power_of_2(max(taps, 1)),
        **options, num_warps=4,
    )  # fmt: skip
    return tuple(part.sum(0) for part in sums)


def _scatter(a: SectionInputs, scan: _ScanGradients, rows: _RowGradients, steps: _RowGradients) -> Tensor:
    """Back through convolution and index to the rows; returns the gradient of the step sizes' bias."""
    options = prepare_options(a)
    blocks = triton.cdiv(a.num_tokens, a.tiling.block)
    dt_bias = scan.dt.new_empty(a.batch * blocks, a.num_heads)
    scatter_rows_kernel[(blocks, a.num_heads, a.batch)](
        scan.x, scan.B, scan.C, scan.dt, a.dt, a.register_dt, a.dt_bias, a.source, a.destination,
        *or_stand_in(a.rows, a.conv_weight), *rows, *steps, dt_bias, a.num_tokens, a.num_rows, a.num_copies,
        rows.side.shape[1], a.num_heads, a.rows.shape[2], a.dt.stride(0), a.dt.stride(1), a.register_dt.stride(0),
        P=a.head_dim, N=a.state_dim, TOKENS=a.tiling.block, CONV_WIDTH=options["CONV_WIDTH"],
        HAS_REGISTERS=options["HAS_REGISTERS"], num_warps=4,
    )  # fmt: skip
    return dt_bias.sum(0)
