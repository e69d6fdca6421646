"""Least bytes and operations of a mixer, from shapes; with measured rates they become floors in milliseconds."""

from dataclasses import dataclass

from m4v.analysis.bench.machine import Rates
from m4v.analysis.mixer_flops import attention_scores_flops, projection_flops, ssd_flops

_SEGMENT = 512  # scan positions whose state goes through memory once
_KERNEL_CHUNK = 64
_BACKWARD_SHARE = 110 / 54
"""Bytes of the two backward sweeps over those of the forward pass: a count of their reads and writes, per token."""


@dataclass(frozen=True, kw_only=True)
class MixerShape:
    """Sizes that decide the cost of a mixer.

    Attributes:
        itemsize: Bytes of an activation.
    """

    num_tokens: int
    num_heads: int
    head_dim: int
    itemsize: int

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_dim


def staged_bytes(shape: MixerShape) -> float:
    """Bytes of the forward section with a preparation kernel, which stores convolved rows once more.

    Preparation reads and writes x, B, C; the segment states read x, B; the scan reads z, x, B, C and writes its
    result: 13 passes over one row of the width. Segment states (float32) are written, scanned in place and read, step
    sizes written and read twice. 54 KB per token for 30 heads of 64 in bfloat16.
    """
    return 13 * _row_bytes(shape) + _state_bytes(shape)


def fused_bytes(shape: MixerShape) -> float:
    """The same with the convolution inside both kernels: 7 passes, 31 KB per token in the case above."""
    return 7 * _row_bytes(shape) + _state_bytes(shape)


def section_flops(shape: MixerShape) -> float:
    """Tensor operations of the chunked scan."""
    return ssd_flops(shape.num_tokens, shape.num_heads, shape.head_dim, shape.head_dim, _KERNEL_CHUNK)


def section_floor_ms(shape: MixerShape, rates: Rates, *, is_fused: bool = False, with_backward: bool = False) -> float:
    """Least time of the section; backwards, about 110 KB per token more and twice the operations again."""
    num_bytes, flops = (fused_bytes if is_fused else staged_bytes)(shape), section_flops(shape)
    if with_backward:
        num_bytes, flops = num_bytes + _BACKWARD_SHARE * staged_bytes(shape), 3.5 * flops
    return rates.floor_ms(num_bytes, flops)


def mixer_floor_ms(shape: MixerShape, rates: Rates, *, with_backward: bool = False) -> float:
    """Least time of the whole mixer: section, input projection and the mixer's share of the output matrix."""
    columns = 4 * shape.width + shape.num_heads
    products = projection_flops(shape.num_tokens, shape.width, columns + shape.width)
    times = 3 if with_backward else 1
    return rates.floor_ms(0, times * products) + section_floor_ms(shape, rates, with_backward=with_backward)


def attention_floor_ms(
    shape: MixerShape, rates: Rates, *, with_projections: bool, with_backward: bool = False
) -> float:
    """Least time of dense attention at the rate of matrix products, which no attention kernel reaches."""
    scores = attention_scores_flops(shape.num_tokens, shape.num_tokens, shape.width)
    products = projection_flops(shape.num_tokens, shape.width, 4 * shape.width) if with_projections else 0.0
    if with_backward:
        scores, products = 3.5 * scores, 3 * products
    return rates.floor_ms(0, scores + products)


def _row_bytes(shape: MixerShape) -> float:
    return shape.num_tokens * shape.width * shape.itemsize


def _state_bytes(shape: MixerShape) -> float:
    states = 4 * 4 * shape.num_heads * shape.head_dim**2 * shape.num_tokens / _SEGMENT
    steps = 3 * 4 * shape.num_heads * shape.num_tokens
    return states + steps
