"""Launches of the scan section's forward kernels: shapes, tile sizes and scratch memory.

Forward is four launches (prepare, segment states, state scan, scan), or two where one segment holds the whole sequence.
Nothing about the length is a compile-time constant, so a kernel is compiled once per model.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from m4v.ops.scan_section.kernels_prepare import prepare_kernel
from m4v.ops.scan_section.kernels_scan import scan_kernel, segment_state_kernel, state_scan_kernel

# The interpreter computes bf16 on its bits, silently wrong, so tiles are fp32 there.
INTERPRETED = not isinstance(scan_kernel, triton.JITFunction)
_STATE_BLOCK = 512
# Segments whose states are requested before the first is used.
_STATES_AHEAD = 8
# Channels side by side in a program of the preparation, eight for each thread, and scan positions that it walks.
_PREPARE_WIDTH = 512
_PREPARE_SPAN = 32
# Rows in flight: with eight, their rotations would not fit in registers as well.
_PREPARE_UNROLL = 4
# Inputs that kernels read by strides of their own.
_STRIDED = ("rows", "register_rows", "dt", "register_dt")


class Tiling(NamedTuple):
    """Shapes of programs: the largest whose values stay in registers on sm_90 (a test compiles them and looks).

    Attributes:
        chunk: Tokens per set of matrix products.
        warps: Of programs with matrix products; with more than four, tiles of 64 tokens would be computed twice.
        scan_stages: Chunks in flight in the forward kernels.
        sweep_stages: The same in the backward kernels, which hold one operand more.
        gated_stages: The same in the scan of the forward pass, of all that it loads; None to leave z out.
        descriptors: Whether that scan asks for tiles as a whole (by the copy engine of sm_90) and not by addresses.
    """

    chunk: int
    warps: int
    scan_stages: int
    sweep_stages: int
    gated_stages: int | None = None
    descriptors: bool = False


@lru_cache(maxsize=64)
def tiling(head_dim: int, state_dim: int, dtype: torch.dtype) -> Tiling:
    """Choose shapes for a head width, state width and dtype; never for a length."""
    wide = max(head_dim, state_dim) > 64
    if INTERPRETED:  # which takes its time per program, not per token
        return Tiling(chunk=32, warps=4, scan_stages=1, sweep_stages=1)
    if dtype == torch.float32:
        return Tiling(chunk=16 if wide else 32, warps=8, scan_stages=1, sweep_stages=1)
    if wide:
        return Tiling(chunk=32, warps=8, scan_stages=2, sweep_stages=1)
    return Tiling(chunk=64, warps=4, scan_stages=2, sweep_stages=3, gated_stages=3, descriptors=True)


class SectionInputs(NamedTuple):
    """Arguments of the section as plain tensors and numbers, in the order of the custom operator."""

    rows: Float[Tensor, "b n f"]
    register_rows: Float[Tensor, "k f"]
    dt: Float[Tensor, "b n g"]
    register_dt: Float[Tensor, "k g"]
    conv_weight: Float[Tensor, "e w"] | None
    conv_bias: Float[Tensor, "e"] | None
    A_log: Float[Tensor, "g"]
    D: Float[Tensor, "g"]
    dt_bias: Float[Tensor, "g"]
    norm_weight: Float[Tensor, "g p"]
    norm_b: Float[Tensor, "s"] | None
    norm_c: Float[Tensor, "s"] | None
    initial_state: Float[Tensor, "b g p s"] | None
    cos: Float[Tensor, "scan pairs"] | None
    sin: Float[Tensor, "scan pairs"] | None
    source: Int[Tensor, "b scan"]
    destination: Int[Tensor, "b scan"]
    register_kinds: Int[Tensor, "r"]
    num_copies: int
    segment_tokens: int
    conv_silu: bool
    zero_order_hold: bool
    norm_eps: float
    gate_eps: float

    @property
    def batch(self) -> int:
        """Samples."""
        return self.rows.shape[0]

    @property
    def num_rows(self) -> int:
        """Token rows of a sample."""
        return self.rows.shape[1]

    @property
    def num_tokens(self) -> int:
        """Scan positions of a sample."""
        return self.source.shape[1]

    @property
    def num_heads(self) -> int:
        """Heads."""
        return self.norm_weight.shape[0]

    @property
    def head_dim(self) -> int:
        """Width of x and z per head."""
        return self.norm_weight.shape[1]

    @property
    def state_dim(self) -> int:
        """Width of B and C per head."""
        return self.rows.shape[2] // (2 * self.num_heads) - self.head_dim

    @property
    def num_segments(self) -> int:
        """Stretches that are scanned side by side."""
        return -(-self.num_tokens // self.segment_tokens)

    @property
    def tile_dtype(self) -> torch.dtype:
        """Type of x, B and C in scan order and of the operands of matrix products."""
        return torch.float32 if INTERPRETED else self.rows.dtype

    @property
    def tiling(self) -> Tiling:
        """Tile sizes for these widths."""
        return tiling(self.head_dim, self.state_dim, self.tile_dtype)

    def normalised(self) -> "SectionInputs":
        """The same with channels adjacent in memory, as kernels read them."""
        assert self.segment_tokens % self.tiling.chunk == 0
        # Rows may be a slice of a wider projection: only their channels have to be adjacent.
        changed = {
            name: _adjacent(value) if name in _STRIDED else value.contiguous()
            for name, value in zip(self._fields, self, strict=True)
            if isinstance(value, Tensor) and not value.is_contiguous()
        }
        return SectionInputs(**(self._asdict() | changed)) if changed else self


def _adjacent(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class Prepared(NamedTuple):
    """Scan-order operands, head by head."""

    x: Float[Tensor, "b g scan p"]
    B: Float[Tensor, "b g scan s"]
    C: Float[Tensor, "b g scan s"]
    dt: Float[Tensor, "b g scan"]


def _descriptor(operand: Float[Tensor, "b g scan width"], rows: int) -> TensorDescriptor:
    """Tiles of `rows` tokens of an operand, heads below one another."""
    return TensorDescriptor.from_tensor(operand.view(-1, operand.shape[-1]), [rows, operand.shape[-1]])


def prepare(inputs: SectionInputs) -> Prepared:
    """Gather, convolve, normalise and rotate."""
    a, T = inputs, inputs.num_tokens
    x = a.rows.new_empty(a.batch, a.num_heads, T, a.head_dim, dtype=a.tile_dtype)
    B, C = (x.new_empty(a.batch, a.num_heads, T, a.state_dim) for _ in range(2))
    dt = x.new_empty(a.batch, a.num_heads, T, dtype=torch.float32)
    options = prepare_options(a)
    heads = max(_PREPARE_WIDTH // max(a.head_dim, a.state_dim), 1)
    prepare_kernel[(3 * triton.cdiv(a.num_heads, heads), triton.cdiv(T, _PREPARE_SPAN), a.batch)](
        a.rows, a.register_rows, a.dt, a.register_dt, a.source, *or_stand_in(a.rows, a.conv_weight, a.conv_bias),
        a.dt_bias, *or_stand_in(a.rows, a.norm_b, a.norm_c, a.cos, a.sin), x, B, C, dt, T, a.num_rows, a.num_heads,
        _PREPARE_SPAN, a.rows.stride(0), a.rows.stride(1), a.register_rows.stride(0), a.dt.stride(0), a.dt.stride(1),
        a.register_dt.stride(0), a.norm_eps, P=a.head_dim, N=a.state_dim, HEADS=heads, UNROLL=_PREPARE_UNROLL,
        TAPS=triton.next_power_of_2(max(options["CONV_WIDTH"], 1)), **options, num_warps=2, maxnreg=128,
    )  # fmt: skip
    return Prepared(x, B, C, dt)


def prepare_options(a: SectionInputs) -> dict[str, int | bool]:
    """Compile-time switches of the preparation kernels."""
    return {
        "CONV_WIDTH": 0 if a.conv_weight is None else a.conv_weight.shape[1],
        "SILU": a.conv_weight is not None and a.conv_silu,
        "NORM": a.norm_b is not None,
        "ROTARY": a.cos is not None,
        "HAS_REGISTERS": a.register_kinds.numel() > 0,
    }


def or_stand_in(stand_in: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Pointers that a switch keeps a kernel from reading still have to be pointers."""
    return tuple(stand_in if tensor is None else tensor for tensor in tensors)


def as_tiles(state: Float[Tensor, "b g p s"] | None) -> Float[Tensor, "b g s p"] | None:
    """A state as the kernels hold it."""
    return None if state is None else state.transpose(-1, -2).float().contiguous()


def segment_states(
    a: SectionInputs, key: Tensor, value: Tensor, dt: Tensor, edge: Tensor | None, *, reverse: bool
) -> Tensor:
    """States entering each segment, or the gradients of those leaving it (b g segments s p)."""
    segments, size = a.num_segments, a.head_dim * a.state_dim
    states = dt.new_empty(a.batch, a.num_heads, segments, a.state_dim, a.head_dim)
    decay = dt.new_empty(a.batch, a.num_heads, segments)
    segment_state_kernel[(segments, a.num_heads, a.batch)](
        key, value, dt, a.A_log, states, decay, a.num_tokens, a.num_heads, a.segment_tokens // a.tiling.chunk,
        P=a.head_dim, N=a.state_dim, CHUNK=a.tiling.chunk, ZOH=a.zero_order_hold, REVERSE=reverse,
        num_warps=a.tiling.warps, num_stages=a.tiling.scan_stages,
    )  # fmt: skip
    block = min(size, _STATE_BLOCK)
    state_scan_kernel[(a.batch * a.num_heads, size // block)](
        states, decay, *or_stand_in(states, edge), segments, SIZE=size, BLOCK=block, HAS_EDGE=edge is not None,
        REVERSE=reverse, AHEAD=_STATES_AHEAD, num_warps=4,
    )  # fmt: skip
    return states


def forward(inputs: SectionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Mixed rows (b n d), the final state (b g p s), and the states that enter the segments (b g segments s p).

    With a single segment, the last holds nothing.
    """
    a = inputs.normalised()
    edge, tiles = as_tiles(a.initial_state), a.tiling
    width = a.num_heads * a.head_dim
    slots = a.rows.new_empty(a.batch * (a.num_rows + a.num_copies), width)
    mixed = slots[: a.batch * a.num_rows].view(a.batch, a.num_rows, width)
    copies = slots[a.batch * a.num_rows :].view(a.batch, a.num_copies, width)
    with torch.cuda.device_of(a.rows):
        x, B, C, dt = prepare(a)
        final = dt.new_empty(a.batch, a.num_heads, a.state_dim, a.head_dim)
        entering = dt.new_empty(0)
        if a.num_segments > 1:
            edge = entering = segment_states(a, B, x, dt, edge, reverse=False)
        if tiles.descriptors:
            x, B, C = (_descriptor(operand, tiles.chunk) for operand in (x, B, C))
        scan_kernel[(a.num_segments, a.num_heads, a.batch)](
            a.rows, a.destination, x, B, C, dt, a.A_log, a.D, a.norm_weight, *or_stand_in(dt, edge), slots, final,
            a.num_tokens, a.num_rows, a.num_copies, a.num_heads, a.segment_tokens // tiles.chunk, a.rows.stride(0),
            a.rows.stride(1), a.gate_eps, P=a.head_dim, N=a.state_dim, CHUNK=tiles.chunk, ZOH=a.zero_order_hold,
            HAS_ENTER=edge is not None, GATE=True, DESCRIPTORS=tiles.descriptors, STAGES=tiles.gated_stages,
            num_warps=tiles.warps, num_stages=tiles.gated_stages or tiles.scan_stages,
        )  # fmt: skip
        if a.num_copies:
            mixed[:, : a.num_copies] += copies
    return mixed, final.transpose(-1, -2), entering
