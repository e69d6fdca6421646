"""Rotary position embedding on adjacent channel pairs, three axes (time, height, width)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class RotaryTable(NamedTuple):
    """Rotation of each token: cosine and sine of the angle of every channel pair."""

    cos: Float[Tensor, "n pairs"]
    sin: Float[Tensor, "n pairs"]

    def select(self, index: Tensor) -> "RotaryTable":
        """Rows of the table in another token order."""
        return RotaryTable(self.cos[index], self.sin[index])

    def to(self, device: torch.device) -> "RotaryTable":
        """Move to a device."""
        return RotaryTable(self.cos.to(device), self.sin.to(device))


def rotary_table(positions: Float[Tensor, "n axes"], axes_dims: tuple[int, ...], theta: float = 10000.0) -> RotaryTable:
    """Angles of all tokens; computed in float64, stored in float32.

    Args:
        positions: Coordinates per token, one column per axis.
        axes_dims: Channels given to each axis, in order; each even, together the head width.
    """
    angles = []
    for axis, dim in enumerate(axes_dims):
        frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles.append(positions[:, axis, None].double() * frequencies)
    all_angles = torch.cat(angles, dim=1)
    return RotaryTable(all_angles.cos().float(), all_angles.sin().float())


def apply_rotary(x: Float[Tensor, "b n g p"], table: RotaryTable) -> Float[Tensor, "b n g p"]:
    """Rotate the channel pairs (2j, 2j+1) of every head; computed in at least fp32, returned in the dtype of `x`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # As complex numbers: one pass over memory instead of seven.
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.complex(table.cos, table.sin)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
