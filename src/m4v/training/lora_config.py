"""Settings of low-rank fine-tuning, torch-free."""

import math
from dataclasses import dataclass

from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train small adapters on a frozen base instead of all weights (LoRA, arXiv 2106.09685).

    Attributes:
        rank: Rank of every adapter; 0 trains all weights.
        alpha: Adapters count by alpha / rank; 0 means alpha = rank, so that the factor is 1.
        targets: Layers that get an adapter, by the ends of their names; none means the projections of every mixer,
            attention layer and feed-forward part.
        dropout: Share of an adapter's inputs left out while training, in [0, 1).
        lr: Peak learning rate of adapters and new words, in place of the stage's; low ranks want about ten times more.
        merged_export: Also write a whole model with the adapters added in; off, only the adapter file is written.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    lr: float = 2e-3
    merged_export: bool = True

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f"lora.rank is {self.rank}; give 0 for full fine-tuning, or a rank such as 16.")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(f"lora.alpha is {self.alpha}; give a number above 0, or 0 for the rank itself.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout is {self.dropout}; it must be in [0, 1).")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"lora.lr is {self.lr}; it must be above 0.")

    @property
    def scale(self) -> float:
        """Factor of the product of an adapter's two matrices; 1 without adapters."""
        return self.alpha / self.rank if self.rank and self.alpha else 1.0
