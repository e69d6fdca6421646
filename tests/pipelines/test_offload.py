"""Offload: the library's hooks give the same video as no hooks, and networks are moved as rarely as possible.

There is no accelerator to offload from here, so the CPU plays both sides: hooks, their order and what they move are
the same. Under sequential offload weights really leave: between calls every parameter is on the meta device.
"""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from diffusers.hooks import apply_group_offloading

from m4v.core.errors import UserError
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.offload import check_offload, place
from tests.pipelines.debug_parts import DEFAULTS, debug_pipeline, two_encoder_parts

PICTURE = np.full((32, 32, 3), 90, np.uint8)
CPU = torch.device("cpu")
NETWORKS = ("text_encoder", "text_encoder_2", "transformer", "vae")


def two_encoder_pipeline() -> M4VPipeline:
    pipeline = M4VPipeline(**two_encoder_parts(), defaults=DEFAULTS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def expected():
    pipeline = two_encoder_pipeline()
    return pipeline("a ball", seed=0).frames, pipeline("a ball", image=PICTURE, seed=0).frames


@pytest.fixture
def loads(monkeypatch):
    """Networks in the order in which the model offload hooks bring them to the device."""
    order = []
    original = CpuOffload.pre_forward

    def record(self, module, *args, **kwargs):
        order.append(type(module).__name__)
        return original(self, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", record)
    return order


def changes(order):
    """The same order without repetitions."""
    return [name for number, name in enumerate(order) if number == 0 or order[number - 1] != name]


def offload_sequentially(pipeline):
    """What `enable_sequential_cpu_offload` does; that method makes "cpu:0" of the CPU, which accelerate cannot take."""
    for name in NETWORKS:
        network = getattr(pipeline, name)
        cpu_offload(network, CPU, offload_buffers=len(network._parameters) > 0)


@pytest.mark.parametrize("level", ["model", "sequential"])
def test_the_video_is_the_same_under_offload_and_a_second_time(expected, level):
    pipeline = two_encoder_pipeline()
    if level == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        offload_sequentially(pipeline)
    for _ in range(2):
        assert np.array_equal(pipeline("a ball", seed=0).frames, expected[0])
        assert np.array_equal(pipeline("a ball", image=PICTURE, seed=0).frames, expected[1])
        assert np.array_equal(np.concatenate(list(pipeline.stream("a ball", seed=0)), axis=1), expected[0])


def test_sequential_offload_keeps_no_weight_on_the_device():
    pipeline = two_encoder_pipeline()
    offload_sequentially(pipeline)
    pipeline("a ball", seed=0)
    for name in NETWORKS:
        assert {parameter.device.type for parameter in getattr(pipeline, name).parameters()} == {"meta"}, name


@pytest.mark.parametrize(
    ("kind", "name"),
    # Not the leaves of T5, whose tied embedding the library writes to disk twice, the second time emptied.
    [*(("block_level", name) for name in NETWORKS), ("leaf_level", "text_encoder"), ("leaf_level", "transformer"),
     ("leaf_level", "vae")],
)  # fmt: skip
def test_group_offload_brings_every_weight_before_it_is_used(expected, kind, name, tmp_path):
    pipeline = two_encoder_pipeline()
    network = getattr(pipeline, name)
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    # Between uses the weights lie on the disk, and their tensors in memory may hold anything.
    apply_group_offloading(network, onload_device=CPU, offload_type=kind, offload_to_disk_path=str(tmp_path), **blocks)
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    for frames, options in zip(expected, ({}, {"image": PICTURE}), strict=True):
        made = pipeline("a ball", seed=0, **options).frames
        assert np.abs(made.astype(int) - frames).max() <= 1  # weights come back at other addresses: another rounding


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_the_pipelines_own_group_offload_gives_the_same_video(expected, kind):
    pipeline = two_encoder_pipeline()
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pipeline.enable_group_offload(onload_device=CPU, offload_type=kind, **blocks)
    assert np.array_equal(pipeline("a ball", seed=0).frames, expected[0])
    assert np.array_equal(pipeline("a ball", image=PICTURE, seed=0).frames, expected[1])


def test_a_whole_video_moves_every_network_once(loads):
    pipeline = two_encoder_pipeline()
    pipeline.enable_model_cpu_offload(device="cpu")
    pipeline("a ball", seed=0)
    assert changes(loads) == ["CLIPTextModel", "T5EncoderModel", "M4VTransformer3DModel", "CausalVideoVAE"]


def test_a_stream_changes_networks_at_every_unit(loads):
    pipeline = debug_pipeline()
    pipeline.enable_model_cpu_offload(device="cpu")
    list(pipeline.stream("a ball", seed=0))
    assert changes(loads) == ["T5EncoderModel", *["M4VTransformer3DModel", "CausalVideoVAE"] * 3]


def test_the_autoencoder_leaves_after_encoding_a_picture(loads):
    pipeline = debug_pipeline()
    pipeline.enable_model_cpu_offload(device="cpu")
    offloaded = []
    original = pipeline.maybe_free_model_hooks
    pipeline.maybe_free_model_hooks = lambda: (offloaded.append(len(loads)), original())
    pipeline("a ball", image=PICTURE, seed=0)
    assert changes(loads) == ["CausalVideoVAE", "T5EncoderModel", "M4VTransformer3DModel", "CausalVideoVAE"]
    assert offloaded[0] == 1


def test_a_stream_given_up_frees_its_networks():
    pipeline = debug_pipeline()
    freed = []
    pipeline.maybe_free_model_hooks = lambda: freed.append(True)
    units = pipeline.stream("a ball", seed=0)
    next(units)
    assert not freed
    units.close()
    assert freed


@pytest.mark.parametrize("level", ["model", "sequential"])
def test_without_an_accelerator_the_error_says_what_to_do(pipeline, level):
    with pytest.raises(UserError, match=r"the device is the CPU\. Leave offload out"):
        place(pipeline, level, CPU)
    check_offload(level, torch.device("cuda"))


def test_no_offload_moves_the_pipeline(pipeline):
    place(pipeline, "none", CPU)
    assert pipeline.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("level", ["model", "sequential", "block_level", "leaf_level"])
def test_on_an_accelerator_too_the_video_is_that_of_no_offload(level):
    whole = two_encoder_pipeline().to("cuda")
    pipeline = two_encoder_pipeline()
    if level in ("model", "sequential"):
        place(pipeline, level, torch.device("cuda"))
    else:
        blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}
        pipeline.enable_group_offload(onload_device=torch.device("cuda"), offload_type=level, **blocks)
    for options in ({}, {"image": PICTURE}):
        assert np.array_equal(pipeline("a ball", seed=0, **options).frames, whole("a ball", seed=0, **options).frames)
    left = {parameter.device.type for name in NETWORKS for parameter in getattr(pipeline, name).parameters()}
    assert "cuda" not in left
