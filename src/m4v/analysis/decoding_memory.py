"""Activations of the video decoders, from runs on the meta device.

With tiles, both decode a tile's whole length before the next tile. One tile is run, and the finished pixels of the
others are added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from m4v.analysis.live_memory import peak_bytes
from m4v.analysis.part_memory import cast_weights
from m4v.core.shapes import LatentShape
from m4v.models.vae.causal_conv import CausalState
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig

TILE_SIZE = 256
"""Side of a tile in pixels: the default of both autoencoders."""


@dataclass(frozen=True)
class Decoding:
    """Most bytes of tensors at once while a video is decoded, without and with tiles."""

    untiled: int
    tiled: int


def causal_vae(config: CausalVideoVAEConfig, dtype: torch.dtype) -> CausalVideoVAE:
    """Build the pyramid base's autoencoder on the meta device."""
    with torch.device("meta"):
        vae = CausalVideoVAE.build(config)
    cast_weights(vae, dtype)
    return vae


def causal_vae_decoding(
    vae: CausalVideoVAE, latent: LatentShape, *, batch_size: int = 1, tile_size: int = TILE_SIZE
) -> Decoding:
    """Memory of decoding a whole video: unit by unit, or tile by tile and in each unit by unit.

    Args:
        vae: On any device; on "meta" nothing is computed.
        batch_size: Videos decoded together.
        tile_size: Side of a tile in pixels.
    """
    # The first unit is shorter than all others, which from the second on are alike.
    num_units = min(2, latent.num_units)
    untiled = _decode_units(vae, batch_size, num_units, latent.height, latent.width)
    cells = tile_size // vae.compression.space
    if max(latent.height, latent.width) <= cells:
        return Decoding(untiled, untiled)
    height, width = min(cells, latent.height), min(cells, latent.width)
    one = _decode_units(vae, batch_size, num_units, height, width)
    num_frames = (latent.num_units - 1) * vae.compression.time + 1
    cell = batch_size * 3 * num_frames * vae.compression.space**2 * vae.dtype.itemsize
    # The last tile is computed while the pixels of all wait; then a row is blended, and rows and the whole are joined.
    pixels = _tiled_cells(latent, cells) * cell
    joining = (height * _covered(latent.width, cells) + 2 * latent.height * latent.width) * cell
    return Decoding(untiled, pixels + max(one, joining))


def _decode_units(vae: CausalVideoVAE, batch_size: int, num_units: int, height: int, width: int) -> int:
    channels = vae.config["latent_channels"]
    units = torch.zeros(batch_size, channels, 1, height, width, dtype=vae.dtype, device=vae.device)

    def decode(latents: Tensor) -> None:
        state: CausalState | None = None
        for _ in range(num_units):
            _, state = vae.decode_chunk(latents, state)

    return peak_bytes(decode, units, weights=list(vae.parameters()))


def _tiled_cells(latent: LatentShape, tile: int) -> int:
    """Latent cells of all tiles, overlaps counted in each: tiles start three quarters of a side apart."""
    return _covered(latent.height, tile) * _covered(latent.width, tile)


def _covered(size: int, tile: int) -> int:
    return sum(min(tile, size - start) for start in range(0, size, tile * 3 // 4))


def wan_vae(config: Mapping[str, Any]) -> AutoencoderKLWan:
    """Build Wan's autoencoder on the meta device, in float32, which it is made to run in."""
    with torch.device("meta"):
        return AutoencoderKLWan.from_config(dict(config))


def wan_vae_decoding(vae: AutoencoderKLWan, latent: LatentShape, *, tile_size: int = TILE_SIZE) -> Decoding:
    """Memory of decoding a whole clip, of which Wan's autoencoder computes one latent frame at a time.

    Args:
        vae: On any device; on "meta" nothing is computed.
        tile_size: Side of a tile in pixels.
    """
    space, time = vae.config["scale_factor_spatial"], vae.config["scale_factor_temporal"]
    # From the third latent frame on, only the finished pixels grow.
    num_units = min(3, latent.num_units)
    frame = 3 * space**2 * torch.float32.itemsize
    rest = (latent.num_units - num_units) * time * frame
    num_frames = (latent.num_units - 1) * time + 1
    area = latent.height * latent.width
    video = num_frames * area * frame
    # Joining the last pixels to the others, and clamping them, takes two videos.
    untiled = max(_decode_clip(vae, num_units, latent.height, latent.width) + rest * area, 2 * video)
    cells = tile_size // space
    if max(latent.height, latent.width) <= cells:
        return Decoding(untiled, untiled)
    height, width = min(cells, latent.height), min(cells, latent.width)
    one = _decode_clip(vae, num_units, height, width) + rest * height * width
    tiles = num_frames * _tiled_cells(latent, cells) * frame
    # While the last tile is computed, the others wait; then rows of tiles, all rows and the clamped video are made.
    return Decoding(untiled, max(one + tiles, tiles + 3 * video))


def _decode_clip(vae: AutoencoderKLWan, num_units: int, height: int, width: int) -> int:
    latents = torch.zeros(1, vae.config["z_dim"], num_units, height, width, device=vae.device)
    return peak_bytes(lambda z: vae.decode(z, return_dict=False), latents, weights=list(vae.parameters()))
