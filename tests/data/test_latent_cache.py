"""Latents kept in memory are those of the clips, whatever the batch size, lengths and damage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.clip import Clip
from m4v.data.folder_source import FolderSource
from m4v.data.latent_cache import LatentCache
from m4v.data.pixels import to_pixels
from m4v.data.source import UnusableClip
from tests.data.folders import make_dataset


class MixedLengths:
    """Random clips of 1, 5 or 9 frames; clip 4 is broken."""

    lengths = (5, 1, 5, 9, 5, 1, 5, 5)

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, index: int) -> Clip:
        if index == 4:
            raise UnusableClip("broken", "clip 4")
        frames = np.random.default_rng(index).integers(0, 256, (self.lengths[index], 8, 8, 3), np.uint8)
        return Clip(frames, (f"short {index}", f"long {index}"), 8.0, f"clip {index}")


def encode(videos: Tensor) -> Tensor:
    """A stand-in autoencoder: every fourth frame, four times smaller."""
    return torch.nn.functional.avg_pool3d(videos[:, :, ::4], (1, 4, 4))


def encoded(clip: Clip) -> Tensor:
    pixels = torch.tensor(clip.frames.astype(np.float64) / 127.5 - 1).permute(3, 0, 1, 2)[None]
    return torch.nn.functional.avg_pool3d(pixels[:, :, ::4], (1, 4, 4))[0].float()


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_buckets_hold_the_latents_of_their_clips_in_order(batch_size: int) -> None:
    source = MixedLengths()
    cache = LatentCache.build(source, encode, batch_size=batch_size, dtype=torch.float32)
    members = {1: [1, 5], 2: [0, 2, 6, 7], 3: [3]}
    assert {units: bucket.sources for units, bucket in cache.buckets.items()} == {
        units: tuple(f"clip {index}" for index in indices) for units, indices in members.items()
    }
    assert len(cache) == 7
    for units, indices in members.items():
        batch = cache.batch(range(len(indices)), num_units=units)
        assert cache.bucket(units).num_units == units
        for row, index in enumerate(indices):
            torch.testing.assert_close(batch.latents[row], encoded(source.clip(index)), atol=1e-6, rtol=0)
            assert batch.captions[row] == (f"short {index}", f"long {index}")


def test_batches_take_any_rows_as_float32() -> None:
    cache = LatentCache.build(MixedLengths(), encode)
    assert cache.bucket(2).latents.dtype == torch.bfloat16
    batch = cache.batch(np.array([3, 0, 3]), num_units=2)
    assert batch.latents.dtype == torch.float32
    assert [captions[0] for captions in batch.captions] == ["short 7", "short 0", "short 7"]
    torch.testing.assert_close(batch.latents[0], batch.latents[2])
    torch.testing.assert_close(batch.latents[1], encoded(MixedLengths().clip(0)), atol=4e-3, rtol=0)


def test_damage_and_progress_are_reported() -> None:
    calls: list[tuple[int, int]] = []
    cache = LatentCache.build(MixedLengths(), encode, 6, on_progress=lambda done, total: calls.append((done, total)))
    assert [drop.source for drop in cache.drops] == ["clip 4"]
    assert len(cache) == 5
    assert calls == [(done, 6) for done in range(1, 7)]


def test_the_length_must_be_said_when_there_are_several() -> None:
    cache = LatentCache.build(MixedLengths(), encode)
    with pytest.raises(UserError, match="1, 2, 3 units"):
        cache.batch([0])
    with pytest.raises(UserError, match="No cached clip has 7 units"):
        cache.batch([0], num_units=7)
    only = LatentCache.build(MixedLengths(), encode, 1)
    assert only.batch([0]).latents.shape == (1, 3, 2, 2, 2)


def test_nothing_usable_says_why() -> None:
    class Broken(MixedLengths):
        def clip(self, index: int) -> Clip:
            raise UnusableClip("broken", f"clip {index}")

    with pytest.raises(UserError, match="8 x broken, for example clip 0; clip 1; clip 2"):
        LatentCache.build(Broken(), encode)


def test_errors_of_the_encoder_surface() -> None:
    def fails(videos: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        LatentCache.build(MixedLengths(), fails)


def test_no_gradients_are_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    cache = LatentCache.build(MixedLengths(), lambda videos: encode(videos) * weight)
    assert not cache.bucket(2).latents.requires_grad


def test_a_folder_with_a_truncated_video(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    content = (root / "videos" / "b.mp4").read_bytes()
    (root / "videos" / "b.mp4").write_bytes(content[:700])
    shape = VideoShape(num_frames=17, height=16, width=16)
    cache = LatentCache.build(FolderSource(root, shape=shape, fps=8, time_compression=4), encode)
    assert {units: bucket.sources for units, bucket in cache.buckets.items()} == {
        1: ("still.png",),
        3: ("videos/a.mp4",),
        5: ("videos/c.mp4",),
    }
    assert [(drop.reason, drop.source) for drop in cache.drops] == [("unreadable file", "videos/b.mp4")]


def test_pixels_span_minus_one_to_one() -> None:
    frames = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 1, 3)
    assert to_pixels(torch.from_numpy(frames)).flatten().tolist() == pytest.approx([-1, -0.6, 1])
    assert to_pixels(torch.zeros(2, 5, 6, 7, 3, dtype=torch.uint8)).shape == (2, 3, 5, 6, 7)
