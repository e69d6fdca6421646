"""What enters the network beside tokens: timestep features, patches, positions, masks."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.embeddings import timestep_features
from m4v.models.denoiser.patches import patchify, unpatchify
from m4v.models.denoiser.positions import added_positions, token_positions
from m4v.models.denoiser.visibility import attention_mask
from tests.models.denoiser.builders import normal


def test_timestep_features_are_bit_for_bit_those_of_the_public_networks() -> None:
    timesteps = torch.cat([torch.linspace(0, 1000, 101), torch.tensor([744.256, 386.358, 1.385])])
    public = get_timestep_embedding(timesteps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(timestep_features(timesteps), public)
    assert torch.equal(timestep_features(torch.zeros(1))[0], torch.tensor([1.0] * 128 + [0.0] * 128))  # cosines first


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_patches_go_back_where_they_came_from(patch: int, channels: int, frames: int, height: int, width: int) -> None:
    latents = normal(2, channels, frames, height * patch, width * patch)
    tokens = patchify(latents, patch)
    assert tokens.shape == (2, frames * height * width, patch * patch * channels)
    assert torch.equal(unpatchify(tokens, patch, height, width), latents)


def test_a_patch_lists_rows_then_columns_then_channels() -> None:
    latents = torch.arange(2 * 4 * 4).reshape(1, 2, 1, 4, 4).float()
    first, second = patchify(latents, 2)[0, :2].tolist()
    assert first == [0, 16, 1, 17, 4, 20, 5, 21]
    assert second == [2, 18, 3, 19, 6, 22, 7, 23]


def test_positions_of_a_history() -> None:
    """As in the public network: quarter size at 1.5, 5.5, ...; half size at 0.5, 2.5, ...; full size on the grid."""
    layout = SequenceLayout((FrameGrid(0, 1, 2), FrameGrid(1, 2, 4), FrameGrid(2, 4, 8)), 2)
    positions = token_positions(layout).tolist()
    assert positions[:2] == [[0, 0, 0]] * 2
    assert positions[2:4] == [[0, 1.5, 1.5], [0, 1.5, 5.5]]
    assert positions[4:12] == [[1, row, column] for row in (0.5, 2.5) for column in (0.5, 2.5, 4.5, 6.5)]
    assert positions[12:] == [[2, row, column] for row in range(4) for column in range(8)]


@pytest.mark.parametrize("width", [16, 18, 24])
def test_added_positions_tell_video_tokens_apart_and_leave_text_alone(width: int) -> None:
    layout = SequenceLayout((FrameGrid(0, 2, 3), FrameGrid(0, 2, 3)), 2)
    waves = added_positions(layout, width, torch.device("cpu"))
    assert waves.shape == (14, width)
    assert waves[:2].abs().max() == 0
    assert waves.abs().max() <= 1
    assert torch.cdist(waves[2:], waves[2:]).fill_diagonal_(math.inf).min() > 1e-2


@pytest.mark.parametrize("causal", [False, True])
def test_attention_mask_is_the_rule_for_every_pair(causal: bool) -> None:
    layout = SequenceLayout((FrameGrid(0, 1, 2), FrameGrid(0, 1, 1), FrameGrid(1, 2, 2)), 3)
    lengths = [2, 0, 3]
    mask = attention_mask(layout, torch.arange(3) < torch.tensor(lengths)[:, None], causal)
    time = [0, 0, 0, 0, 0, 1, 2, 2, 2, 2]
    for sample, length in enumerate(lengths):
        real = [token < length for token in range(3)] + [True] * 7
        for query in range(10):
            for key in range(10):
                sees = real[query] == real[key] and (not causal or time[query] >= time[key])
                assert mask[sample, 0, query, key] == sees
        assert mask[sample, 0].any(-1).all()  # no empty row
