"""Tiny clips, networks and runs for training tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m4v.data.clip import Clip
from m4v.media.video import write_video
from m4v.models.text.tokenizer import build_tokenizer
from m4v.recipes.debug import debug
from m4v.training.clip_pool import ClipPool, stack_clips
from m4v.training.config import DataConfig, PerDevice, RunConfig
from m4v.training.latent_bank import LatentBank, build_bank
from m4v.training.networks import Networks, build_networks

NUM_FRAMES, SIZE = 9, 32


def moving_square(index: int) -> Clip:
    """A coloured square that moves right over a two-tone picture."""
    rng = np.random.default_rng(index)
    frames = np.full((NUM_FRAMES, SIZE, SIZE, 3), 190, np.uint8)
    frames[:, SIZE // 2 :] = 90
    colour, top, left = rng.integers(0, 255, 3), rng.integers(2, 18), rng.integers(2, 12)
    for time in range(NUM_FRAMES):
        frames[time, top : top + 10, left + time : left + time + 10] = colour
    return Clip(frames, (f"square {['one', 'two', 'three', 'four'][index % 4]}", "a square"), 8.0, f"square {index}")


@pytest.fixture
def pool() -> ClipPool:
    return stack_clips([moving_square(index) for index in range(4)])


@pytest.fixture
def networks() -> Networks:
    return build_networks(debug().models, build_tokenizer(["a", "square", "one", "two", "three", "four"]), seed=0)


@pytest.fixture
def bank(networks: Networks) -> LatentBank:
    latents = torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    captions = [(f"square {word}", "a square") for word in ("one", "two", "three", "four", "one", "two")]
    return build_bank(latents, captions, networks.tokenizer, max_length=12)


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(6):
        clip = moving_square(index)
        write_video(folder / f"{index}.mp4", clip.frames, clip.fps)
        (folder / f"{index}.txt").write_text(clip.captions[0])
    return folder


@pytest.fixture
def tiny_run(video_folder: Path) -> RunConfig:
    """The debug recipe on six real video files."""
    count = PerDevice(cpu=6, accelerator=6)
    data = DataConfig(
        source="folder",
        folder=str(video_folder),
        num_clips=count,
        num_frames=NUM_FRAMES,
        height=SIZE,
        width=SIZE,
        fps=8.0,
        num_threads=1,
    )
    return replace(debug(), data=data)
