"""Scan orders: what a mixer needs to know about where rows go, for one layout, one path and one batch of prompts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.recomposition.plan import BoundPlan, recomposition_plan
from m4v.ops.rope import RotaryTable
from m4v.ops.scan_section.dispatch import may_run_kernels
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput, kernel_index


@dataclass(frozen=True)
class ScanOrder:
    """One scan path applied to one batch.

    Attributes:
        bound: The plan with the prompts placed.
        section: The same as the scan section reads it, with rotations in scan order.
    """

    bound: BoundPlan
    section: SectionOrder

    def mix(
        self,
        scan_section: Callable[..., SectionOutput],
        rows: Float[Tensor, "b n f"],
        register_rows: Float[Tensor, "k f"],
        dt: Float[Tensor, "b n g"],
        register_dt: Float[Tensor, "k g"],
        weights: ScanWeights,
        options: ScanOptions,
    ) -> Float[Tensor, "b n d"]:
        """Mix rows in this order; see `scan_section` for the arguments."""
        return scan_section(rows, register_rows, dt, register_dt, weights, self.section, options).mixed


def scan_orders(
    paths: Iterable[str],
    layout: SequenceLayout,
    config: RecompositionConfig,
    text_mask: Bool[Tensor, "b l"],
    rotary: RotaryTable | None,
    *,
    num_register_kinds: int,
) -> dict[str, ScanOrder]:
    """Scan order of every path named, for one layout and batch; without synchronising with the device.

    Args:
        paths: Letters, repeated or not.
        text_mask: True on real text tokens, which come first.
        rotary: Rotations in token order, text first; None where the scan takes no positions.
        num_register_kinds: Registers that the mixers have.

    Raises:
        UserError: if a frame asks for a register that the mixers do not have.
    """
    orders = {}
    for path in sorted(set(paths)):
        bound = recomposition_plan(layout, path, config, text_mask.device, num_register_kinds).bind(text_mask)
        index = kernel_index(bound.order, bound.is_real) if may_run_kernels(text_mask.device) else None
        turned = None if rotary is None else bound.rotary(rotary)
        orders[path] = ScanOrder(bound, SectionOrder(bound.order, bound.is_real, turned, index))
    return orders
