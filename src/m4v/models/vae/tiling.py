"""Spatial tiles: a large video passes through the VAE piece by piece, and the pieces are blended where they overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.models.vae.causal_conv import CausalState, ChunkPass, Tails


@dataclass(frozen=True)
class Tiling:
    """Overlapping square tiles; neighbours share a quarter of their side.

    Attributes:
        tile_size: Side of a tile in pixels, a multiple of four latent cells.
        space: Pixels per latent cell.

    Source: Pyramid-Flow causal VAE (tile 256: 32 latent cells, stride 24, blend 64 pixels, keep 192).
    """

    tile_size: int
    space: int

    def __post_init__(self) -> None:
        step = 4 * self.space
        if self.tile_size < step or self.tile_size % step:
            raise UserError(f"Tile size is {self.tile_size}; expected a positive multiple of {step} pixels.")

    @property
    def latent_tile_size(self) -> int:
        """Side of a tile in latent cells."""
        return self.tile_size // self.space


TileLayers = Callable[[Tensor, ChunkPass | None], Tensor]
"""Layers applied to one tile, and the chunk pass its causal convolutions take part in."""


def run_in_tiles(
    layers: TileLayers,
    frames: Float[Tensor, "b c t h w"],
    sizes: tuple[int, int] | None,
    state: CausalState | None,
    keeps_state: bool,
) -> tuple[Float[Tensor, "b d u v x"], CausalState]:
    """Pass frames through causal layers tile by tile and blend the results.

    Args:
        layers: Function of a tile and the chunk pass its causal convolutions take part in.
        frames: A whole video, or its next chunk.
        sizes: Side of a tile before and after the layers; None for no tiles.
        state: State after the chunk before; None at the start of a video.
        keeps_state: Whether a chunk may follow; otherwise the returned state is empty.
    """
    rows = [[frames]] if sizes is None else split(frames, sizes[0])
    num_tiles = sum(len(row) for row in rows)
    assert state is None or len(state.tails) == num_tiles, f"state of {len(state.tails)} tiles, not {num_tiles}"
    outputs: list[list[Tensor]] = []
    tails: list[Tails] = []
    for row in rows:
        outputs.append([])
        for tile in row:
            chunk = ChunkPass(None if state is None else state.tails[len(tails)]) if keeps_state else None
            outputs[-1].append(layers(tile, chunk))
            tails.append(() if chunk is None else tuple(chunk.collected))
    joined = outputs[0][0] if sizes is None else join(outputs, sizes[1])
    return joined, CausalState(tuple(tails))


def split(frames: Float[Tensor, "b c t h w"], size: int) -> list[list[Tensor]]:
    """Cut into tiles of side `size`, three quarters of a side apart; the last ones end at the border."""
    height, width = frames.shape[-2:]
    if height <= size and width <= size:
        return [[frames]]
    stride = size * 3 // 4
    return [
        [frames[..., top : top + size, left : left + size] for left in range(0, width, stride)]
        for top in range(0, height, stride)
    ]


def join(rows: Sequence[Sequence[Tensor]], size: int) -> Tensor:
    """Blend tiles of side `size` with the tile above, then with the one to the left, and lay out what each keeps.

    Both neighbours are themselves already blended when their overlap is used, which matters in the corners.
    """
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0]
    keep, overlap = size * 3 // 4, size - size * 3 // 4
    above: list[Tensor] = []
    strips = []
    for row in rows:
        blended: list[Tensor] = []
        for column, tile in enumerate(row):
            if above:
                tile = blend(above[column], tile, overlap, dim=-2)
            if blended:
                tile = blend(blended[-1], tile, overlap, dim=-1)
            blended.append(tile)
        strips.append(torch.cat([tile[..., :keep, :keep] for tile in blended], dim=-1))
        above = blended
    return torch.cat(strips, dim=-2)


def blend(before: Tensor, after: Tensor, overlap: int, dim: int) -> Tensor:
    """Fade from the end of `before` into the start of `after`; the first overlapping line is all `before`.

    The fade is as wide as the overlap, or as the smaller tile where that is narrower.
    """
    width = min(before.shape[dim], after.shape[dim], overlap)
    weight = torch.arange(width, device=after.device, dtype=torch.float32) / width
    weight = weight.to(after.dtype)[:, None] if dim == -2 else weight.to(after.dtype)
    tail = before.narrow(dim, before.shape[dim] - width, width)
    faded = tail * (1 - weight) + after.narrow(dim, 0, width) * weight
    return torch.cat([faded, after.narrow(dim, width, after.shape[dim] - width)], dim=dim)
