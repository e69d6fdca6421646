"""Offload of the Wan pipeline: the library's hooks give the same video as no hooks, state-space layers included.

There is no accelerator to offload from here, so the CPU plays both sides: hooks, their order and what they move are
the same. Under sequential offload weights really leave: between calls every parameter is on the meta device.
"""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_group_offloading

from tests.pipelines.wan_parts import wan_pipeline

PROMPT = "a red ball rolls"
CPU = torch.device("cpu")
NETWORKS = ("text_encoder", "transformer", "vae")


def offloadable():
    return wan_pipeline(mixer_plan="interleaved")


def video(pipeline) -> np.ndarray:
    (unit,) = pipeline.stream(PROMPT, seed=0)
    return unit


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return video(offloadable())


@pytest.mark.parametrize("level", ["model", "sequential"])
def test_the_video_is_the_same_under_offload_and_a_second_time(expected, level):
    pipeline = offloadable()
    if level == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        for name in NETWORKS:
            cpu_offload(getattr(pipeline, name), CPU, offload_buffers=len(getattr(pipeline, name)._parameters) > 0)
    for _ in range(2):
        assert np.array_equal(video(pipeline), expected)
        frames = pipeline(PROMPT, seed=0).frames
        assert np.abs(255 * frames - expected).max() <= 0.51
    if level == "sequential":
        for name in NETWORKS:
            assert {parameter.device.type for parameter in getattr(pipeline, name).parameters()} == {"meta"}, name


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_brings_every_weight_of_the_denoiser_before_it_is_used(expected, kind, tmp_path):
    pipeline = offloadable()
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    # Between uses the weights lie on the disk, and their tensors in memory may hold anything.
    apply_group_offloading(
        pipeline.transformer, onload_device=CPU, offload_type=kind, offload_to_disk_path=str(tmp_path), **blocks
    )
    for parameter in pipeline.transformer.parameters():
        parameter.data.fill_(float("nan"))
    made = video(pipeline).astype(int)
    assert np.abs(made - expected).max() <= 4  # weights come back at other addresses: another rounding
    assert np.array_equal(video(pipeline), made)
