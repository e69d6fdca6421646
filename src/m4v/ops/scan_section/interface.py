"""What the scan section takes: weights, options, and the re-composition plan as the kernels read it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from m4v.core.errors import UserError
from m4v.ops.recompose.reference import RowOrder
from m4v.ops.rope import RotaryTable
from m4v.ops.ssd.reference import Discretisation


class ScanWeights(NamedTuple):
    """Learned parameters between projection and output matrix.

    Attributes:
        conv_weight: Taps for the channels of [x | B | C]; None leaves convolution and activation out.
        conv_bias: Present when `conv_weight` is.
        A_log: Logarithm of minus the decay rate of each head.
        D: Skip of each head.
        dt_bias: Added to step sizes before softplus.
        norm_weight: Of the gated RMSNorm per head.
        norm_b: Weight of an RMSNorm over the channels of each head's B, after the convolution; None for no norm.
        norm_c: The same for C.
    """

    conv_weight: Float[Tensor, "e w"] | None
    conv_bias: Float[Tensor, "e"] | None
    A_log: Float[Tensor, "g"]
    D: Float[Tensor, "g"]
    dt_bias: Float[Tensor, "g"]
    norm_weight: Float[Tensor, "g p"]
    norm_b: Float[Tensor, "s"] | None = None
    norm_c: Float[Tensor, "s"] | None = None


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """Settings that are not learned.

    Attributes:
        conv_silu: Whether SiLU follows the convolution.
        discretisation: Weight of the input term (Eq. 2).
        chunk_size: Tokens per set of matrix products in the reference, unset for its choice; kernels have their own.
        norm_eps: Of the norms on B and C.
    """

    conv_silu: bool = True
    discretisation: Discretisation = "euler"
    chunk_size: int | None = None
    norm_eps: float = 1e-6


class KernelIndex(NamedTuple):
    """A bound re-composition plan as kernels read it: one number to load by, one to store by.

    Attributes:
        source: Row that each scan position reads: a token row, or the number of token rows plus the register's kind;
            on padding the bitwise complement of the row.
        destination: Slot that each scan position writes: its token row; for the second copy of a text row, the number
            of token rows plus that row; for the i-th register, the number of token rows and text rows plus i.
        register_kinds: Kind of each register.
        num_copies: Text rows that stand twice; they are the first rows.
    """

    source: Int[Tensor, "b scan"]
    destination: Int[Tensor, "b scan"]
    register_kinds: Int[Tensor, "r"]
    num_copies: int


class SectionOrder(NamedTuple):
    """Where rows go, which are real, and how B and C turn; all in scan order.

    Attributes:
        rows: Re-composition of one batch.
        is_real: False on text padding.
        rotary: Rotation of each scan position; None for no positions.
        kernel_index: `kernel_index(rows, is_real)`; what the kernels read instead of `rows` and `is_real`.
    """

    rows: RowOrder
    is_real: Bool[Tensor, "b scan"]
    rotary: RotaryTable | None
    kernel_index: KernelIndex | None = None


class SectionOutput(NamedTuple):
    """Mixed rows in token order, and the state after the last scan position."""

    mixed: Float[Tensor, "b n d"]
    final_state: Float[Tensor, "b g p s"]


def kernel_index(order: RowOrder, is_real: Bool[Tensor, "b scan"]) -> KernelIndex:
    """Translate a row order for the kernels; no host synchronisation, done once per bound plan."""
    num_rows, num_copies = order.positions.shape[1], order.text_copy_positions.shape[1]
    source = order.index.clone()
    source[:, order.register_positions] = num_rows + order.register_levels
    source = torch.where(is_real, source, ~source)

    destination = torch.empty_like(order.index)
    rows = torch.arange(num_rows, device=destination.device)
    destination.scatter_(1, order.positions, rows.expand_as(order.positions))
    copies = num_rows + torch.arange(num_copies, device=destination.device)
    destination.scatter_(1, order.text_copy_positions, copies.expand_as(order.text_copy_positions))
    registers = torch.arange(order.register_positions.shape[0], device=destination.device)
    destination[:, order.register_positions] = num_rows + num_copies + registers
    return KernelIndex(
        source.to(torch.int32).contiguous(), destination.to(torch.int32).contiguous(), order.register_levels, num_copies
    )


def check_order(order: RowOrder, num_register_kinds: int) -> None:
    """Check that an order only names rows that exist; synchronises with the device, so once per plan.

    Raises:
        UserError: if an index is out of range, or rows, copies and registers do not fill the sequence.
    """
    length, num_rows = order.index.shape[1], order.positions.shape[1]
    filled = num_rows + order.text_copy_positions.shape[1] + order.register_positions.shape[0]
    if filled != length:
        raise UserError(
            f"The scan order has {length} positions, but rows, text copies and registers fill {filled}; "
            "build it with recomposition_plan(...).bind(...)."
        )
    ranges = {
        "index": (order.index, num_rows),
        "positions": (order.positions, length),
        "text_copy_positions": (order.text_copy_positions, length),
        "register_positions": (order.register_positions, length),
        "register_levels": (order.register_levels, num_register_kinds),
    }
    for name, (values, limit) in ranges.items():
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= limit):
            raise UserError(
                f"{name} of the scan order runs from {int(values.min())} to {int(values.max())}; "
                f"expected 0 to {limit - 1}. Build it with recomposition_plan(...).bind(...)."
            )
