"""Where each token sits in time and space, for rotary embedding (Pyramid-Flow, half-pixel interpolation)."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.ops.rope import RotaryTable, rotary_table


def token_positions(layout: SequenceLayout) -> Float[Tensor, "n 3"]:
    """Coordinates (time, row, column) of text tokens, then video tokens.

    Text sits at the origin. Time counts frames from the oldest one kept. Rows and columns are measured on the grid of
    the last frame: cell centres of a coarser frame fall between its cells (0.5, 2.5, ... at half size).
    """
    base = layout.frames[-1]
    frames = [torch.zeros(layout.num_text_tokens, 3, dtype=torch.float64)]
    for time, frame in enumerate(layout.frames):
        rows = (torch.arange(frame.height, dtype=torch.float64) + 0.5) * base.height / frame.height - 0.5
        columns = (torch.arange(frame.width, dtype=torch.float64) + 0.5) * base.width / frame.width - 0.5
        grid = torch.cartesian_prod(torch.tensor([float(time)], dtype=torch.float64), rows, columns)
        frames.append(grid)
    return torch.cat(frames)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # what prediction made must serve training too
def layout_rotary(layout: SequenceLayout, axes_dims: tuple[int, ...], device: torch.device) -> RotaryTable:
    """Rotation table of all tokens of a layout, text first."""
    return rotary_table(token_positions(layout), axes_dims).to(device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def added_positions(layout: SequenceLayout, width: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Sine and cosine waves of the three coordinates, to be added to tokens; text rows are zero.

    Source: Table 3, first row ("adding positional encodings to each token").
    """
    per_axis = width // 6 * 2
    table = rotary_table(token_positions(layout), (per_axis, per_axis, per_axis))
    waves = torch.cat([table.cos, table.sin], dim=1)
    waves[: layout.num_text_tokens] = 0
    padding = torch.zeros(waves.shape[0], width - waves.shape[1])
    return torch.cat([waves, padding], dim=1).to(device)
