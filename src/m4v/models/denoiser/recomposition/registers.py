"""Per-frame registers: learned rows that tell the scan where a frame begins and how large it is (Sec. 3.3)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RegisterRows(NamedTuple):
    """Registers as a scan takes them. They know neither timestep nor prompt, so they hold for a whole video.

    Attributes:
        rows: Through the projection of tokens.
        dt: Their step sizes, before bias and softplus.
    """

    rows: Float[Tensor, "k f"]
    dt: Float[Tensor, "k g"]


class FrameRegisters(nn.Module):
    """One learned row per kind of frame; in a pyramid the kinds are the levels.

    The printed layout of Sec. 3.3 leaves out the noisy frame, so the exact rule is open. We read: one register before
    every frame, the noisy one included, its kind being the level of the frame that follows. Rows enter after the
    block's AdaLN (they carry no timestep) and their outputs are dropped, so they act through the state alone.
    """

    def __init__(self, num_kinds: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_kinds, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal, std 0.02 (as in Mamba-Reg)."""
        nn.init.trunc_normal_(self.rows, std=0.02)

    def forward(self) -> Float[Tensor, "k d"]:
        # A copy, because offloading takes the parameter itself back as soon as this call ends.
        return self.rows.clone()
