"""The model as a whole: sizes, gradients, half precision, initialisation and the parts' exact rules."""

import pytest
import torch
from torch.nn import functional as F

from m4v.models.vae.blocks import (
    CausalGroupNorm,
    FrameAttention,
    SpatialUpsample,
    TemporalDownsample,
    TemporalUpsample,
    depth_to_space,
    space_to_depth,
)
from m4v.models.vae.causal_conv import CausalConv3d
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig
from tests.assertions import assert_relative_close
from tests.models.vae.builders import CONFIGS, random_tensor, random_vae

names = pytest.mark.parametrize("name", list(CONFIGS))


@pytest.mark.parametrize(("preset", "most_parameters"), [("toybox_xs", 3_500_000), ("toybox_m", 2_500_000)])
def test_toybox_presets_stay_small_and_favour_the_decoder(preset, most_parameters):
    with torch.device("meta"):
        vae = CausalVideoVAE.build(getattr(CausalVideoVAEConfig, preset)())
    total, encoder = (sum(p.numel() for p in module.parameters()) for module in (vae, vae.encoder))
    assert total <= most_parameters
    assert encoder < total / 2


@names
def test_round_trip_shapes(name):
    vae = random_vae(CONFIGS[name])
    time = vae.compression.time
    video = random_tensor(2, 3, 2 * time + 1, 16, 24)
    posterior = vae.encode(video)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 4, 3, 2, 3)
    assert vae.decode(posterior.mode()).shape == video.shape


@names
def test_gradients_reach_every_parameter(name):
    vae = random_vae(CONFIGS[name]).train().requires_grad_()
    reconstruction, posterior = vae(random_tensor(1, 3, 9, 16, 16), torch.Generator().manual_seed(0))
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    # A per-frame norm over a 2x2 grid may leave a gradient of exactly zero in single entries, never in a whole tensor.
    assert [key for key, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_forward_uses_the_most_likely_latents_without_a_generator():
    vae = random_vae(CONFIGS["lean without norms"])
    video = random_tensor(1, 3, 5, 16, 16)
    reconstruction, posterior = vae(video)
    assert torch.equal(reconstruction, vae.decode(posterior.mode()))


@names
def test_bfloat16_stays_close_to_float32(name):
    vae = random_vae(CONFIGS[name])
    video = random_tensor(1, 3, 9, 16, 16).clamp(-1, 1)
    expected = vae(video)[0]
    vae = vae.to(torch.bfloat16)
    reconstruction, posterior = vae(video.to(torch.bfloat16), torch.Generator().manual_seed(0))
    assert reconstruction.dtype == torch.bfloat16
    assert posterior.kl().dtype == torch.float32
    assert_relative_close(vae(video.to(torch.bfloat16))[0].float(), expected, 0.1)


def test_without_norms_residual_blocks_begin_as_shortcuts():
    vae = CausalVideoVAE.build(CONFIGS["lean without norms"])
    for block in (vae.encoder.down_blocks[0].resnets[0], vae.decoder.up_blocks[0].resnets[0]):
        frames = random_tensor(1, block.conv1.conv.in_channels, 3, 2, 2)
        assert torch.equal(block(frames), frames)


def test_causal_convolution_is_a_convolution_with_zero_frames_in_front():
    layer = CausalConv3d(2, 3)
    frames = random_tensor(1, 2, 4, 5, 5)
    padded = F.pad(frames, (1, 1, 1, 1, 2, 0))
    assert_relative_close(layer(frames), F.conv3d(padded, layer.conv.weight, layer.conv.bias), 1e-6)


def test_group_norm_sees_one_frame_at_a_time():
    norm = CausalGroupNorm(2, 4)
    frames = random_tensor(2, 4, 3, 5, 5)
    expected = torch.stack([F.group_norm(frames[:, :, t], 2) for t in range(3)], dim=2)
    assert_relative_close(norm(frames), expected, 1e-6)


def test_attention_matches_the_written_out_formula():
    layer = FrameAttention(8, 2).eval()
    frames = random_tensor(1, 8, 2, 2, 3)
    expected = frames.clone()
    for t in range(2):
        tokens = F.group_norm(frames[:, :, t], 2, eps=1e-6)[0].flatten(1).T
        weights = (layer.to_q(tokens) @ layer.to_k(tokens).T * 8**-0.5).softmax(dim=-1)
        expected[0, :, t] += layer.to_out[0](weights @ layer.to_v(tokens)).T.unflatten(1, (2, 3))
    assert_relative_close(layer(frames), expected, 1e-6)


def test_spatial_upsampling_unfolds_channels_in_the_published_order():
    layer = SpatialUpsample(2, 2, (3, 3, 3), has_shortcut=False)
    frames = random_tensor(1, 2, 2, 3, 3)
    folded, unfolded = layer.conv(frames), layer(frames)
    for c, p1, p2 in ((0, 0, 1), (1, 1, 0), (1, 1, 1)):
        assert torch.equal(unfolded[:, c, :, p1::2, p2::2], folded[:, c * 4 + p1 * 2 + p2])


def test_temporal_upsampling_drops_the_frame_before_the_first():
    layer = TemporalUpsample(2, 2, (3, 3, 3), has_shortcut=False)
    frames = random_tensor(1, 2, 3, 2, 2)
    folded, unfolded = layer.conv(frames), layer(frames)
    assert unfolded.shape[2] == 5
    assert torch.equal(unfolded[:, 1, 0], folded[:, 3, 0])
    assert torch.equal(unfolded[:, 1, 1::2], folded[:, 2, 1:])
    assert torch.equal(unfolded[:, 1, 2::2], folded[:, 3, 1:])


def test_shortcuts_carry_a_constant_video_unchanged():
    down, up = (
        TemporalDownsample(2, 4, (3, 1, 1), has_shortcut=True),
        TemporalUpsample(4, 2, (3, 1, 1), has_shortcut=True),
    )
    for layer in (down, up):
        torch.nn.init.zeros_(layer.conv.conv.weight)
        torch.nn.init.zeros_(layer.conv.conv.bias)
    frames = random_tensor(1, 2, 1, 2, 2).expand(1, 2, 5, 2, 2)
    assert_relative_close(up(down(frames)), frames, 1e-7)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_folding_pixels_is_lossless_and_leaves_time_alone(factor):
    frames = random_tensor(1, 3, 2, 8, 4)
    folded = space_to_depth(frames, factor)
    assert folded.shape == (1, 3 * factor**2, 2, 8 // factor, 4 // factor)
    assert torch.equal(depth_to_space(folded, factor), frames)
    assert torch.equal(folded[:, factor**2, 1, 0, 0], frames[:, 1, 1, 0, 0])
