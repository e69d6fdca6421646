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
    pairs = wide.unflatten(-1, (-1, 2))
    # The compiler of GPUs makes one pass of real arithmetic and fuses it with its neighbours, but none of complex
    # numbers; uncompiled, real arithmetic is seven passes over memory and complex arithmetic is one.
    turn = _turn_real if x.is_cuda and torch.compiler.is_compiling() else _turn_complex
    return turn(pairs, table.cos[:, None], table.sin[:, None]).flatten(-2).to(x.dtype)


def _turn_real(
    pairs: Float[Tensor, "b n g h 2"], cos: Float[Tensor, "n 1 h"], sin: Float[Tensor, "n 1 h"]
) -> Float[Tensor, "b n g h 2"]:
    first, second = pairs.unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _turn_complex(
    pairs: Float[Tensor, "b n g h 2"], cos: Float[Tensor, "n 1 h"], sin: Float[Tensor, "n 1 h"]
) -> Float[Tensor, "b n g h 2"]:
    return torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
