"""Arguments of attention over time that belong together."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class HeadNorms(NamedTuple):
    """RMSNorm of queries and keys over the channels of each head.

    Attributes:
        query: Weight of queries, the same for all heads.
        key: Weight of keys.
        eps: Added to the mean square.
    """

    query: Float[Tensor, "p"]
    key: Float[Tensor, "p"]
    eps: float
