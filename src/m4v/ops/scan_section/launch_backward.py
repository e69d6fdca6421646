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
    step_size_kernel,
    value_kernel,
)
from m4v.ops.scan_section.kernels_prepare_backward import collect_kernel, rows_backward_kernel, sum_partials_kernel
from m4v.ops.scan_section.kernels_scan import scan_kernel
from m4v.ops.scan_section.launch import (
    INTERPRETED,
    Prepared,
    SectionInputs,
    as_tiles,
    or_stand_in,
    prepare,
    prepare_options,
    segment_states,
)


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


class RowTiling(NamedTuple):
    """Shapes of the backward programs that treat tokens one by one.

    Attributes:
        streams: Scan positions side by side in a program that goes back through convolution and activation.
        group: Positions of each stream that are loaded together.
        steps: Positions of each stream; a multiple of `group`.
        gate_tokens: Tokens side by side in a program that goes back through norm and gate.
        gate_blocks: How many times as many it treats in turn.
    """

    streams: int
    group: int
    steps: int
    gate_tokens: int
    gate_blocks: int


_WARPS = 4
# The longer the streams, the fewer ends are computed twice and the fewer sums are left to add; but a GPU wants programs
# enough to hide what each of them waits for.
_SHORTEST_STREAM, _LONGEST_STREAM, _ENOUGH_PROGRAMS = 8, 64, 1200
_COLLECTED = {"ROWS": 32, "COLUMNS": 64}
_SUMMED = {"ROWS": 128, "COLUMNS": 16}


def row_tiling(a: SectionInputs) -> RowTiling:
    """Choose shapes: four channels for each thread of four warps, which is what registers hold on sm_90."""
    streams = 4 * 32 * _WARPS // max(a.head_dim, a.state_dim)
    steps = _SHORTEST_STREAM if INTERPRETED else _LONGEST_STREAM
    parts = 3 * a.num_heads * a.batch
    while steps > _SHORTEST_STREAM and parts * triton.cdiv(a.num_tokens, streams * steps) < _ENOUGH_PROGRAMS:
        steps //= 2
    return RowTiling(streams, group=4, steps=steps, gate_tokens=streams, gate_blocks=8)


class _RowGradients(NamedTuple):
    """Gradients of rows in token order, and beside them in fp32 those of rows that the scan reads more than once.

    Beside: first copies of text rows, second copies, registers one by one. The gate of registers stays unwritten.
    """

    direct: Float[Tensor, "b n f"]
    side: Float[Tensor, "b side f"]

    @classmethod
    def like(cls, a: SectionInputs, tensor: Tensor) -> "_RowGradients":
        num_side = 2 * a.num_copies + a.register_kinds.shape[0]
        side = tensor.new_empty(a.batch, num_side, tensor.shape[2], dtype=torch.float32)
        return cls(tensor.new_empty(tensor.shape), side)


class _Partials(NamedTuple):
    """Gradients of weights by program, `programs columns`."""

    conv_weight: Tensor
    conv_bias: Tensor
    norm_b: Tensor
    norm_c: Tensor
    norm_weight: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor

    @classmethod
    def of(cls, a: SectionInputs) -> "_Partials":
        shapes = row_tiling(a)
        spans = a.batch * triton.cdiv(a.num_tokens, shapes.streams * shapes.steps)
        gates = a.batch * triton.cdiv(a.num_tokens, shapes.gate_tokens * shapes.gate_blocks)
        segments = a.batch * a.num_segments
        norms = spans * a.num_heads
        programs = {"conv_weight": spans, "conv_bias": spans, "norm_b": norms, "norm_c": norms, "norm_weight": gates}
        parts = {}
        for name in cls._fields:
            weight = getattr(a, name)
            width = 0 if weight is None else weight.numel()
            parts[name] = a.rows.new_empty(programs.get(name, segments), width, dtype=torch.float32)
        return cls(**parts)

    def sum(self, a: SectionInputs) -> dict[str, Tensor]:
        """Sums over programs in the shape and dtype of the weights; empty for absent ones."""
        totals = {name: _like(a, getattr(a, name)) for name in self._fields}
        blocks = sum(triton.cdiv(part.shape[1], _SUMMED["COLUMNS"]) for part in self)
        pairs = [tensor for name, part in self._asdict().items() for tensor in (part, totals[name])]
        options = prepare_options(a)
        sum_partials_kernel[(blocks,)](
            *pairs, self.conv_weight.shape[0], self.norm_b.shape[0], self.norm_weight.shape[0], self.D.shape[0],
            self.conv_bias.shape[1], a.num_heads, P=a.head_dim, N=a.state_dim, CONV_WIDTH=options["CONV_WIDTH"],
            NORM=options["NORM"], **_SUMMED, num_warps=_WARPS,
        )  # fmt: skip
        return totals


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
    rows, steps, partials = _RowGradients.like(a, a.rows), _RowGradients.like(a, a.dt), _Partials.of(a)
    with torch.cuda.device_of(a.rows):
        operands = prepare(a)
        g = _gate_backward(a, operands, edge, mixed_grad.contiguous(), rows, partials)
        scan = _scan_backward(a, operands, edge, final_state, as_tiles(final_grad), g, steps, partials)
        _rows_backward(a, scan, rows, partials)
        register_rows, register_dt = _collect(a, rows, steps)
        weights = partials.sum(a)

    initial_state = scan.initial_state.transpose(-1, -2)
    return SectionGradients(
        rows=rows.direct,
        register_rows=register_rows,
        dt=steps.direct,
        register_dt=register_dt,
        **weights,
        initial_state=_like(a, None) if a.initial_state is None else initial_state.to(a.initial_state.dtype),
    )


def _like(a: SectionInputs, tensor: Tensor | None) -> Tensor:
    """Memory for a gradient; operators cannot return nothing, so an absent input has an empty one."""
    return a.rows.new_empty(0, dtype=torch.float32) if tensor is None else torch.empty_like(tensor)


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
    a: SectionInputs,
    operands: Prepared,
    edge: Tensor | None,
    mixed_grad: Tensor,
    rows: _RowGradients,
    partials: _Partials,
) -> Tensor:
    """Gradients of the scan's outputs, in scan order; those of z go to `rows`."""
    x, B, C, dt = operands
    y = torch.empty_like(x)
    scan_kernel[(a.num_segments, a.num_heads, a.batch)](
        a.rows, a.destination, x, B, C, dt, a.A_log, a.D, a.norm_weight, *or_stand_in(dt, edge), y, dt, a.num_tokens,
        a.num_rows, a.num_copies, a.num_heads, a.segment_tokens // a.tiling.chunk, a.rows.stride(0), a.rows.stride(1),
        a.gate_eps, HAS_ENTER=edge is not None, GATE=False, **_sweep(a),
    )  # fmt: skip
    shapes = row_tiling(a)
    spans = triton.cdiv(a.num_tokens, shapes.gate_tokens * shapes.gate_blocks)
    gate_backward_kernel[(a.num_heads, spans, a.batch)](
        a.rows, mixed_grad, a.destination, y, a.norm_weight, *rows, partials.norm_weight, a.num_tokens, a.num_rows,
        a.num_copies, rows.side.shape[1], a.num_heads, shapes.gate_blocks, a.rows.stride(0), a.rows.stride(1),
        a.rows.shape[2], a.gate_eps, P=a.head_dim, TOKENS=shapes.gate_tokens, num_warps=_WARPS,
    )  # fmt: skip
    return y


class _ScanGradients(NamedTuple):
    """Gradients of what the scan reads, in scan order."""

    x: Tensor
    B: Tensor
    C: Tensor
    initial_state: Float[Tensor, "b g s p"]


def _scan_backward(
    a: SectionInputs,
    operands: Prepared,
    edge: Tensor | None,
    final_state: Tensor,
    leaving: Tensor | None,
    g: Tensor,
    steps: _RowGradients,
    partials: _Partials,
) -> _ScanGradients:
    """Gradients of x, B, C and the initial state; those of step sizes go to `steps`."""
    x, B, C, dt = operands
    final = as_tiles(final_state)
    if a.num_segments > 1:
        leaving = segment_states(a, C, g, dt, leaving, reverse=True)
    grads = _ScanGradients(
        x=torch.empty_like(x),
        B=torch.empty_like(B),
        C=torch.empty_like(C),
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
    by_token = [torch.empty_like(dt) for _ in range(3)]
    crossing = dt.new_empty(a.batch, a.num_heads, a.num_segments)
    input_vector_kernel[programs](
        g, x, B, C, dt, a.A_log, enter, final, leave, grads.B, *by_token, crossing, partials.D, *length,
        HAS_LEAVE=leaving is not None, **_sweep(a),
    )  # fmt: skip
    step_size_kernel[programs](
        dt, reach, *by_token, crossing, a.A_log, a.destination, *steps, partials.A_log, partials.dt_bias, a.num_tokens,
        a.num_rows, a.num_copies, steps.side.shape[1], *length[1:], CHUNK=a.tiling.chunk, ZOH=a.zero_order_hold,
        num_warps=1,
    )  # fmt: skip
    return grads


def _rows_backward(a: SectionInputs, scan: _ScanGradients, rows: _RowGradients, partials: _Partials) -> None:
    """Back through activation, convolution and index to the rows."""
    shapes = row_tiling(a)
    spans = triton.cdiv(a.num_tokens, shapes.streams * shapes.steps)
    rows_backward_kernel[(3 * a.num_heads, spans, a.batch)](
        a.rows, a.register_rows, a.source, a.destination, *or_stand_in(a.rows, a.conv_weight, a.conv_bias),
        *or_stand_in(a.rows, a.norm_b, a.norm_c, a.cos, a.sin), scan.x, scan.B, scan.C, *rows, partials.conv_weight,
        partials.conv_bias, partials.norm_b, partials.norm_c, a.num_tokens, a.num_rows, a.num_copies,
        rows.side.shape[1], a.num_heads, shapes.steps, a.rows.stride(0), a.rows.stride(1), a.register_rows.stride(0),
        a.norm_eps, P=a.head_dim, N=a.state_dim, STREAMS=shapes.streams, GROUP=shapes.group, **prepare_options(a),
        num_warps=_WARPS,
    )  # fmt: skip


def _collect(a: SectionInputs, rows: _RowGradients, steps: _RowGradients) -> tuple[Tensor, Tensor]:
    """Add up text copies in `rows` and `steps`, and return the same of registers."""
    register_rows, register_dt = _like(a, a.register_rows), _like(a, a.register_dt)
    row_width, num_kinds = a.rows.shape[2], a.register_rows.shape[0]
    columns = sum(triton.cdiv(width, _COLLECTED["COLUMNS"]) for width in (row_width, a.num_heads))
    items = triton.cdiv(a.num_copies, _COLLECTED["ROWS"]) * a.batch + num_kinds
    if items:
        collect_kernel[(columns, items)](
            *rows, register_rows, *steps, register_dt, a.register_kinds, a.num_rows, a.num_copies,
            a.register_kinds.shape[0], a.batch, row_width, a.num_heads, a.num_heads * a.head_dim, **_COLLECTED,
            num_warps=_WARPS,
        )  # fmt: skip
    return register_rows, register_dt
