"""Tiles: the published sizes, the blend rule against a per-pixel loop, and that a large tile changes nothing."""

import pytest
import torch

from m4v.core.errors import UserError
from m4v.models.vae.gaussian import DiagonalGaussian
from m4v.models.vae.tiling import Tiling, blend, join, split
from tests.assertions import assert_relative_close
from tests.models.vae.builders import LEAN_WITHOUT_NORMS, PYRAMID_FLOW_LIKE, random_tensor, random_vae


def _reference_join(rows: list[list[torch.Tensor]], size: int) -> torch.Tensor:
    """Pyramid-Flow's rule in loops: in place, above first, then left, neighbours already blended."""
    tiles = [[tile.clone() for tile in row] for row in rows]
    extent, keep = int(size * 0.25), int(size * 0.75)
    strips = []
    for i, row in enumerate(tiles):
        strip = []
        for j, tile in enumerate(row):
            if i > 0:
                upper = tiles[i - 1][j]
                width = min(upper.shape[3], tile.shape[3], extent)
                for y in range(width):
                    tile[:, :, :, y] = upper[:, :, :, y - width] * (1 - y / width) + tile[:, :, :, y] * (y / width)
            if j > 0:
                left = row[j - 1]
                width = min(left.shape[4], tile.shape[4], extent)
                for x in range(width):
                    tile[..., x] = left[..., x - width] * (1 - x / width) + tile[..., x] * (x / width)
            strip.append(tile[:, :, :, :keep, :keep])
        strips.append(torch.cat(strip, dim=4))
    return torch.cat(strips, dim=3)


def test_published_tile_sizes():
    tiling = Tiling(256, 8)
    assert tiling.latent_tile_size == 32
    latents = torch.arange(60.0).expand(1, 1, 1, 60, 60)
    row = split(latents, tiling.latent_tile_size)[0]
    assert [(tile[0, 0, 0, 0, 0].item(), tile.shape[-1]) for tile in row] == [(0, 32), (24, 32), (48, 12)]


def test_fade_begins_with_the_earlier_tile_and_ends_before_the_later_one():
    before, after = torch.zeros(1, 1, 1, 1, 6), torch.ones(1, 1, 1, 1, 6)
    assert blend(before, after, overlap=4, dim=-1).flatten().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_fade_is_as_wide_as_the_smaller_tile():
    before, after = torch.zeros(1, 1, 1, 6, 1), torch.ones(1, 1, 1, 2, 1)
    assert blend(before, after, overlap=4, dim=-2).flatten().tolist() == [0.0, 0.5]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 29), (22, 8), (25, 31)])
def test_blending_matches_the_loop(height, width):
    rows = split(torch.zeros(1, 2, 1, height, width), 8)
    rows = [[random_tensor(*tile.shape, seed=10 * i + j) for j, tile in enumerate(row)] for i, row in enumerate(rows)]
    untouched = [[tile.clone() for tile in row] for row in rows]
    joined = join(rows, 8)
    assert joined.shape == (1, 2, 1, height, width)
    assert_relative_close(joined, _reference_join(rows, 8), 1e-6)
    assert all(torch.equal(a, b) for x, y in zip(rows, untouched, strict=True) for a, b in zip(x, y, strict=True))


def test_tiles_of_one_picture_join_to_the_picture():
    frames = random_tensor(1, 2, 3, 21, 35)
    assert_relative_close(join(split(frames, 8), 8), frames, 1e-6)


@pytest.mark.parametrize("config", [LEAN_WITHOUT_NORMS, PYRAMID_FLOW_LIKE])
def test_a_tile_larger_than_the_video_changes_nothing(config):
    vae = random_vae(config)
    latents, video = random_tensor(1, 4, 2, 3, 5), random_tensor(1, 3, 1 + config.compression.time, 24, 40)
    decoded, encoded = vae.decode(latents), vae.encode(video).mean
    vae.enable_tiling(64)
    assert torch.equal(vae.decode(latents), decoded)
    assert torch.equal(vae.encode(video).mean, encoded)


def test_tiled_decoding_is_the_blend_of_separately_decoded_tiles():
    vae = random_vae(LEAN_WITHOUT_NORMS)
    latents = random_tensor(1, 4, 2, 5, 7)
    pieces = [[vae.decode(latents[..., i : i + 4, j : j + 4]) for j in (0, 3, 6)] for i in (0, 3)]
    vae.enable_tiling(32)
    assert_relative_close(vae.decode(latents), _reference_join(pieces, 32), 1e-6)


def test_tiled_encoding_blends_moments_before_the_clamp():
    vae = random_vae(LEAN_WITHOUT_NORMS)
    vae.quant_conv.conv.bias[4:] = -32.0
    vae.quant_conv.conv.weight[4:] *= 20.0
    video = random_tensor(1, 3, 5, 40, 40)
    raw = [[vae.quant_conv(vae.encoder(video[..., i : i + 32, j : j + 32])) for j in (0, 24)] for i in (0, 24)]
    expected = DiagonalGaussian.from_moments(_reference_join(raw, 4))
    assert (expected.log_variance == -30).any()
    assert (expected.log_variance > -30).any()
    vae.enable_tiling(32)
    posterior = vae.encode(video)
    assert_relative_close(posterior.mean, expected.mean, 1e-6)
    assert_relative_close(posterior.log_variance, expected.log_variance, 1e-6)


def test_tiled_chunks_equal_the_tiled_whole():
    vae = random_vae(LEAN_WITHOUT_NORMS)
    latents = random_tensor(1, 4, 3, 5, 5)
    vae.enable_tiling(32)
    first, state = vae.decode_chunk(latents[:, :, :2], None)
    second, _ = vae.decode_chunk(latents[:, :, 2:], state)
    assert len(state.tails) == 4
    assert_relative_close(torch.cat([first, second], dim=2), vae.decode(latents), 2e-6)


def test_whole_videos_in_tiles_and_chunks_keep_the_memory_of_one_tile_only(monkeypatch):
    vae = random_vae(LEAN_WITHOUT_NORMS)
    latents, video = random_tensor(1, 4, 3, 5, 5), random_tensor(1, 3, 9, 40, 40)
    vae.enable_tiling(32)
    decoded, encoded = vae.decode(latents), vae.encode(video).mean
    vae.enable_tiling(32, units_per_chunk=1)
    sizes = []
    decode_frames = vae._decode_frames
    monkeypatch.setattr(vae, "_decode_frames", lambda z, chunk: sizes.append(z.shape[2:]) or decode_frames(z, chunk))
    assert_relative_close(vae.decode(latents), decoded, 2e-6)
    # Three parts of each of the four tiles, one tile after the other.
    assert [tuple(size) for size in sizes] == [(1, h, w) for h in (4, 2) for w in (4, 2) for _ in range(3)]
    assert_relative_close(vae.encode(video).mean, encoded, 2e-6)


@pytest.mark.parametrize("tile_size", [0, 16, 100])
def test_tiles_that_do_not_fit_are_refused(tile_size):
    with pytest.raises(UserError, match=f"Tile size is {tile_size}; expected a positive multiple of 32"):
        random_vae(LEAN_WITHOUT_NORMS).enable_tiling(tile_size)


def test_empty_chunks_are_refused():
    with pytest.raises(UserError, match="units_per_chunk is 0"):
        random_vae(LEAN_WITHOUT_NORMS).enable_tiling(32, units_per_chunk=0)
