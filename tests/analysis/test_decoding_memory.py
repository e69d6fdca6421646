"""Memory of video decoding: estimates from one tile and few frames, against runs of the whole code on shapes alone."""

import pytest
import torch

from m4v.analysis.decoding_memory import causal_vae, causal_vae_decoding, wan_vae, wan_vae_decoding
from m4v.analysis.live_memory import peak_bytes
from m4v.core.shapes import LatentShape
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig

SMALL = LatentShape(num_units=5, height=16, width=16)


def test_decoding_in_tiles_is_what_the_whole_run_needs() -> None:
    """One tile and what is kept of the others, against all tiles of real code."""
    config = CausalVideoVAEConfig.debug()
    vae = causal_vae(config, torch.float32)
    latent = LatentShape(num_units=3, height=20, width=28)
    estimate = causal_vae_decoding(vae, latent, tile_size=64)
    whole = CausalVideoVAE.build(config).to("meta")

    def decode(units: torch.Tensor) -> None:
        state = None
        for _ in range(3):
            _, state = whole.decode_chunk(units, state)

    units = torch.zeros(1, 4, 1, 20, 28, device="meta")
    assert estimate.untiled == pytest.approx(peak_bytes(decode, units, weights=list(whole.parameters())), rel=0.05)
    whole.enable_tiling(64, 1)
    video = torch.zeros(1, 4, 3, 20, 28, device="meta")
    needed = peak_bytes(whole.decode, video, weights=list(whole.parameters()))
    # Too high where, as here, the last tile is smaller than the others.
    assert 1.0 <= estimate.tiled / needed <= 1.3


def test_decoding_with_wan_s_autoencoder_is_what_the_whole_run_needs() -> None:
    vae = wan_vae({"base_dim": 8, "num_res_blocks": 1, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4})
    estimate = wan_vae_decoding(vae, LatentShape(num_units=4, height=8, width=14), tile_size=64)
    latents = torch.zeros(1, 4, 4, 8, 14, device="meta")

    def decode(z: torch.Tensor) -> object:
        return vae.decode(z, return_dict=False)

    weights = list(vae.parameters())
    assert estimate.untiled == pytest.approx(peak_bytes(decode, latents, weights=weights), rel=0.1)
    vae.enable_tiling(64, 64, 48, 48)
    # Too high where, as here, the last tile is smaller than the others.
    assert 1.0 <= estimate.tiled / peak_bytes(decode, latents, weights=weights) <= 1.25


def test_small_pictures_need_no_tiles() -> None:
    decoding = causal_vae_decoding(causal_vae(CausalVideoVAEConfig.debug(), torch.float32), SMALL)
    assert decoding.tiled == decoding.untiled
