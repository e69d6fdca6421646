"""How a run is spread over devices and memory, torch-free."""

from dataclasses import dataclass

from m4v.training.optim_config import require


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Many devices, and the memory of each; none of it changes what is learned beyond the order of sums.

    Started by torchrun, a run uses as many ranks as there are. They share every batch by rows, so that batch sizes
    are always those of the whole step.

    Attributes:
        accumulate: Parts that a rank computes one after the other in a step, at least 1; less memory, same batch.
        checkpoint_share: Share of the blocks whose activations are computed again in the backward pass, 0 to 1.
        shard: With several ranks, each holds a share of weights, gradients and moments (FSDP2) instead of all of them.
        reduce_once: When sharded, add up a step's gradients on every rank before they are shared out: less traffic,
            but a whole float32 gradient per rank.
        context: Ranks that share one sequence, of which each holds some frames; a divisor of the number of ranks. For
            sequences too long for one device, on the pyramid base.
    """

    accumulate: int = 1
    checkpoint_share: float = 0.0
    shard: bool = True
    reduce_once: bool = True
    context: int = 1

    def __post_init__(self) -> None:
        require(self.accumulate >= 1, f"parallel.accumulate is {self.accumulate}; it must be at least 1.")
        require(
            0 <= self.checkpoint_share <= 1,
            f"parallel.checkpoint_share is {self.checkpoint_share}; it must be in [0, 1].",
        )
        require(self.context >= 1, f"parallel.context is {self.context}; it must be at least 1.")
