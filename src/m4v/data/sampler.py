"""Which clips each training step takes: an endless sequence of shuffled epochs, computed from the step alone."""

import functools

import numpy as np
from jaxtyping import Int64

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed


def indices_for_step(seed: int, step: int, batch_size: int, num_clips: int) -> Int64[np.ndarray, "batch_size"]:
    """Give the clip numbers of one step; every clip comes exactly once per epoch.

    A pure function: resuming at step n needs nothing but n. A batch may straddle two epochs, and one larger than the
    data set contains clips several times.

    Args:
        seed: Which shuffling.
        step: Training step, from 0.
        batch_size: Clips per step, at least 1.
        num_clips: Clips to draw from, at least 1.

    Raises:
        UserError: if there is nothing to draw from, or a number is out of range.
    """
    if num_clips < 1 or batch_size < 1 or step < 0:
        raise UserError(
            f"Cannot draw batch {step} of {batch_size} out of {num_clips} clips; expected at least one clip, a batch "
            "of at least one, and a step from 0."
        )
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, num_clips)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _epoch_order(seed, int(epoch), num_clips)[offsets[chosen]]
    return indices


def share_of_rank(
    indices: Int64[np.ndarray, "batch_size"], rank: int, world: int, what: str = "The batch"
) -> Int64[np.ndarray, "share"]:
    """Give one rank's equal part of a step's clips; the parts of all ranks, one after the other, are the whole.

    The order of clips therefore never depends on how many ranks there are, nor on who reads them.

    Raises:
        UserError: if the clips cannot be shared evenly, or there is no such rank.
    """
    if not 0 <= rank < world:
        raise UserError(f"Rank {rank} of {world} does not exist.")
    if len(indices) % world:
        raise UserError(
            f"{what} has {len(indices)} clips, which {world} ranks cannot share evenly; use a multiple of {world}."
        )
    part = len(indices) // world
    return indices[rank * part : (rank + 1) * part]


@functools.lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    # Raw generator output is the same in every numpy version, which numpy does not promise of `permutation`.
    keys = np.random.PCG64(fold_seed(seed, "epoch", epoch)).random_raw(num_clips)
    order = np.argsort(keys, kind="stable")
    order.setflags(write=False)
    return order
