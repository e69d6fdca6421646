"""Pixel and latent sizes: conversion both ways, and errors that name sizes which then work."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.core.shapes import Compression, LatentShape, VideoShape

compressions = st.builds(Compression, time=st.integers(1, 8), space=st.integers(1, 16))


def test_a_known_size() -> None:
    shape = Compression(time=8, space=8).latent_shape(VideoShape(num_frames=121, height=384, width=640))
    assert shape == LatentShape(num_units=16, height=48, width=80)


@given(
    compressions,
    st.builds(LatentShape, num_units=st.integers(1, 40), height=st.integers(1, 99), width=st.integers(1, 99)),
)
def test_latent_to_video_to_latent_is_the_identity(compression: Compression, latent: LatentShape) -> None:
    video = compression.video_shape(latent)
    assert video.num_frames == 1 + compression.time * (latent.num_units - 1)
    assert (video.height, video.width) == (latent.height * compression.space, latent.width * compression.space)
    assert compression.latent_shape(video) == latent


def _suggestions(message: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", message.split("use ")[1])]


@given(compressions, st.integers(-3, 200))
def test_a_frame_count_is_taken_or_refused_with_the_nearest_ones_that_work(
    compression: Compression, frames: int
) -> None:
    video = VideoShape(num_frames=frames, height=compression.space, width=compression.space)
    valid = [1 + compression.time * k for k in range(300)]
    if frames in valid:
        assert compression.latent_shape(video).num_units == valid.index(frames) + 1
        return
    with pytest.raises(UserError, match=f"num_frames is {frames},") as caught:
        compression.latent_shape(video)
    suggested = _suggestions(str(caught.value))
    assert min(valid, key=lambda value: abs(value - frames)) in suggested
    assert set(suggested) <= set(valid)


@given(compressions, st.integers(-3, 200), st.booleans())
def test_a_side_is_taken_or_refused_with_the_nearest_ones_that_work(
    compression: Compression, side: int, is_height: bool
) -> None:
    other = 4 * compression.space
    height, width = (side, other) if is_height else (other, side)
    video = VideoShape(num_frames=1, height=height, width=width)
    valid = [compression.space * k for k in range(1, 300)]
    if side in valid:
        latent = compression.latent_shape(video)
        assert (latent.height if is_height else latent.width) == side // compression.space
        return
    with pytest.raises(UserError, match=f"{'height' if is_height else 'width'} is {side},") as caught:
        compression.latent_shape(video)
    suggested = _suggestions(str(caught.value))
    assert min(valid, key=lambda value: abs(value - side)) in suggested
    assert set(suggested) <= set(valid)


def test_a_shape_reads_like_a_sentence() -> None:
    assert str(VideoShape(num_frames=17, height=64, width=96)) == "17 frames of 96x64 pixels"
