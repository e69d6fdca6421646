"""Attention over time in plain torch: the definition, and what trains."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from m4v.ops.attention import attention
from m4v.ops.rms_norm import rms_norm
from m4v.ops.time_attention.interface import HeadNorms


def time_attention(
    query: Float[Tensor, "b c g p"],
    key: Float[Tensor, "b c g p"],
    value: Float[Tensor, "b c g p"],
    gate: Float[Tensor, "d"],
    num_times: int,
    mask: Bool[Tensor, "f f"] | None = None,
    norms: HeadNorms | None = None,
) -> Float[Tensor, "b c d"]:
    """Attend between whole frames: a score sums over positions, with scale (positions x head width) ** -0.5.

    Args:
        query: One row per cell; cells are positions of time tokens, time after time.
        gate: Factor of each channel of the result (d = heads x p).
        num_times: Time tokens, of which each has the same number of positions.
        mask: True where time token (row) may see time token (column); none if all see each other.
        norms: For queries and keys; none if they come normalised.

    Source: Sec. 3.3 "Temporal Branch".
    """
    if norms is not None:
        query, key = rms_norm(query, norms.query, norms.eps), rms_norm(key, norms.key, norms.eps)
    query, key, value_by_time = (rearrange(t, "b (f s) g p -> b f g (s p)", f=num_times) for t in (query, key, value))
    mixed = attention(query, key, value_by_time, mask)
    rows: Tensor = rearrange(mixed, "b f g (s p) -> b (f s) (g p)", p=value.shape[-1])
    return gate * rows
