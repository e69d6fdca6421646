"""Chunked equals whole, an image equals frame 0 of a longer video, and nothing looks ahead."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.models.vae.causal_conv import CausalState
from m4v.models.vae.gaussian import DiagonalGaussian
from tests.assertions import assert_relative_close
from tests.models.vae.builders import CONFIGS, LEAN_WITHOUT_NORMS, random_tensor, random_vae

VAES = {name: random_vae(config) for name, config in CONFIGS.items()}
SIZE = 16
NUM_UNITS = 5
names = pytest.mark.parametrize("name", list(CONFIGS))


def _video(name: str, num_units: int = NUM_UNITS) -> torch.Tensor:
    time = VAES[name].compression.time
    return random_tensor(2, 3, time * (num_units - 1) + 1, SIZE, SIZE).clamp(-1, 1)


@st.composite
def _chunk_sizes(draw) -> list[int]:
    """Cut NUM_UNITS units into pieces of any size."""
    cuts = draw(st.sets(st.integers(1, NUM_UNITS - 1)))
    edges = [0, *sorted(cuts), NUM_UNITS]
    return [end - start for start, end in pairwise(edges)]


@given(name=st.sampled_from(list(CONFIGS)), sizes=_chunk_sizes())
@settings(max_examples=20)
def test_decoding_in_chunks_equals_decoding_the_whole(name, sizes):
    vae = VAES[name]
    latents = random_tensor(1, 4, NUM_UNITS, 2, 2)
    state, videos = None, []
    for chunk in latents.split(sizes, dim=2):
        video, state = vae.decode_chunk(chunk, state)
        videos.append(video)
    assert_relative_close(torch.cat(videos, dim=2), vae.decode(latents), 2e-6)


@given(name=st.sampled_from(list(CONFIGS)), sizes=_chunk_sizes())
@settings(max_examples=20)
def test_encoding_in_chunks_equals_encoding_the_whole(name, sizes):
    vae = VAES[name]
    video = _video(name)
    time = vae.compression.time
    frames = [time * size for size in sizes]
    frames[0] -= time - 1
    state, posteriors = None, []
    for chunk in video.split(frames, dim=2):
        posterior, state = vae.encode_chunk(chunk, state)
        posteriors.append(posterior)
    joined = DiagonalGaussian.concatenate(posteriors)
    whole = vae.encode(video)
    assert_relative_close(joined.mean, whole.mean, 2e-6)
    assert_relative_close(joined.log_variance, whole.log_variance, 2e-6)


@names
def test_chunked_decoding_option_changes_nothing(name):
    vae = random_vae(CONFIGS[name])
    video = _video(name)
    whole = vae.encode(video).mean, vae.decode(random_tensor(1, 4, NUM_UNITS, 2, 2))
    vae.enable_tiling(tile_size=256, units_per_chunk=2)
    chunked = vae.encode(video).mean, vae.decode(random_tensor(1, 4, NUM_UNITS, 2, 2))
    vae.disable_tiling()
    for actual, expected in zip(chunked, whole, strict=True):
        assert_relative_close(actual, expected, 2e-6)


@names
def test_an_image_is_frame_zero_of_a_longer_video(name):
    vae = VAES[name]
    video = _video(name)
    assert_relative_close(vae.encode(video[:, :, :1]).mean, vae.encode(video).mean[:, :, :1], 2e-6)
    latents = random_tensor(1, 4, 3, 2, 2)
    image = vae.decode(latents[:, :, :1])
    assert image.shape == (1, 3, 1, SIZE, SIZE)
    assert_relative_close(image, vae.decode(latents)[:, :, :1], 2e-6)


@names
def test_later_frames_cannot_move_earlier_outputs(name):
    vae = VAES[name]
    time = vae.compression.time
    video = _video(name)
    changed = video.clone()
    changed[:, :, time + 1 :] += 1.0
    before, after = vae.encode(video).mean, vae.encode(changed).mean
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])
    latents = random_tensor(1, 4, 3, 2, 2)
    changed = latents.clone()
    changed[:, :, 2] += 1.0
    before, after = vae.decode(latents), vae.decode(changed)
    assert torch.equal(before[:, :, : time + 1], after[:, :, : time + 1])
    assert not torch.allclose(before[:, :, time + 1], after[:, :, time + 1])


def test_a_state_can_be_used_twice():
    vae = VAES["lean without norms"]
    latents = random_tensor(1, 4, 3, 2, 2)
    _, state = vae.decode_chunk(latents[:, :, :1], None)
    copies = [tail.clone() for tail in state.tails[0]]
    first, _ = vae.decode_chunk(latents[:, :, 1:], state)
    again, _ = vae.decode_chunk(latents[:, :, 1:], state)
    assert torch.equal(first, again)
    assert all(torch.equal(tail, copy) for tail, copy in zip(state.tails[0], copies, strict=True))
    with pytest.raises(AttributeError):
        state.tails = ()  # type: ignore[misc]


def test_the_state_of_another_video_is_refused():
    vae = VAES["lean without norms"]
    _, state = vae.decode_chunk(random_tensor(1, 4, 1, 2, 2), None)
    with pytest.raises(AssertionError, match="state of another video"):
        vae.decode_chunk(random_tensor(2, 4, 1, 2, 2), state)
    with pytest.raises(AssertionError, match="state of 0 tiles"):
        vae.decode_chunk(random_tensor(1, 4, 1, 2, 2), CausalState(()))


def test_gradients_pass_between_chunks():
    vae = random_vae(LEAN_WITHOUT_NORMS)
    latents = random_tensor(1, 4, 3, 2, 2).requires_grad_()
    _, state = vae.decode_chunk(latents[:, :, :2], None)
    video, _ = vae.decode_chunk(latents[:, :, 2:], state)
    (chunked,) = torch.autograd.grad(video.square().sum(), latents)
    (whole,) = torch.autograd.grad(vae.decode(latents)[:, :, -video.shape[2] :].square().sum(), latents)
    assert chunked[:, :, :2].abs().max() > 0
    assert_relative_close(chunked, whole, 1e-5)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 3, 4, 16, 16), "num_frames is 4"), ((1, 3, 5, 12, 16), "height is 12")]
)
def test_videos_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        VAES["lean without norms"].encode(torch.zeros(shape))


def test_later_chunks_that_do_not_fit_are_refused():
    vae = VAES["lean without norms"]
    _, state = vae.encode_chunk(torch.zeros(1, 3, 5, 16, 16), None)
    with pytest.raises(UserError, match="later chunk has 5 frames"):
        vae.encode_chunk(torch.zeros(1, 3, 5, 16, 16), state)
    with pytest.raises(UserError, match="num_frames is 4"):
        vae.encode_chunk(torch.zeros(1, 3, 4, 16, 16), None)
