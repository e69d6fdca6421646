"""Recorded evaluations: the same bits as without, through levels, units and guidance, and nothing left behind.

On the CPU a stand-in takes the place of CUDA graphs. Like them it computes nothing while it records, repeats the very
operations on the memory they were recorded with, and overwrites its result.
"""

import logging
from collections.abc import Callable, Iterator
from types import MethodType

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from m4v.flow.self_quality import SelfQualityGuidance
from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.pipelines.graph_replay import CudaRecorder, GraphReplay, has_hooks
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import debug_pipeline

PROMPT = "a red ball rolls to the right"
OPTIONS = {"num_inference_steps": 6, "num_frames": 13, "seed": 3, "output_type": "latent"}
GUIDED_TWICE = {"self_guidance_scale": SelfQualityGuidance(weight=0.5, first_unit=1, levels=(0, 1), renoise=True)}


class FakeRecorder:
    """Stands in for CUDA graphs."""

    def __init__(self, fails: bool = False) -> None:
        self.num_records = self.num_replays = self.num_alive = self.most_alive = 0
        self.fails = fails
        self.is_closed = False

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand a long story")
        self.num_records += 1
        self.num_alive += 1
        self.most_alive = max(self.most_alive, self.num_alive)
        return _FakeGraph(self, function)

    def trim(self) -> None:
        assert self.num_alive == 0

    def close(self) -> None:
        assert self.num_alive == 0
        self.is_closed = True


class _FakeGraph:
    def __init__(self, recorder: FakeRecorder, function: Callable[[], Tensor]) -> None:
        self.recorder, self.function = recorder, function
        self.output = function().fill_(float("nan"))

    def __call__(self) -> Tensor:
        self.recorder.num_replays += 1
        return self.output.copy_(self.function())

    def __del__(self) -> None:
        self.recorder.num_alive -= 1


@pytest.fixture
def fresh() -> M4VPipeline:
    """A pipeline of the test's own."""
    return debug_pipeline()


def with_fake(pipeline: M4VPipeline, recorder: FakeRecorder, max_cells: int = 10**6) -> M4VPipeline:
    """Let a pipeline on the CPU behave as if it were on CUDA."""
    replay = GraphReplay(pipeline.transformer, recorder, max_cells=max_cells)
    pipeline._graph_replay = MethodType(lambda self, device: replay, pipeline)
    return pipeline


@pytest.mark.parametrize(
    ("guidance", "records", "alive"),
    # 3 levels of 4 units; units 1 to 3 have two more predictors at two levels.
    [({}, 12, 1), ({"guidance_scale": 1.0}, 12, 1), (GUIDED_TWICE, 12 + 2 * 3 * 2, 3)],
    ids=["cfg", "none", "self-quality"],
)
def test_a_replayed_video_has_the_same_bits(fresh: M4VPipeline, guidance: dict, records: int, alive: int) -> None:
    plain = fresh(PROMPT, **OPTIONS, **guidance).frames
    recorder = FakeRecorder()
    assert torch.equal(with_fake(fresh, recorder)(PROMPT, **OPTIONS, **guidance).frames, plain)
    assert (recorder.num_records, recorder.num_replays, recorder.most_alive) == (records, 5 * records, alive)
    assert recorder.is_closed


@torch.no_grad()
def test_a_replay_leaves_earlier_results_alone() -> None:
    replay = GraphReplay(nn.Identity(), FakeRecorder(), max_cells=100)
    evaluate = replay.replaying(
        lambda latents, timesteps: latents * timesteps[:, None], history_cells=0, num_evaluations=5
    )
    results = [evaluate(torch.ones(2, 3), torch.full((2,), float(step))) for step in range(4)]
    assert [result.unique().tolist() for result in results] == [[0.0], [1.0], [2.0], [3.0]]


def test_a_callback_s_latents_reach_the_replay(fresh: M4VPipeline) -> None:
    def shrink(pipe: M4VPipeline, step: int, timestep: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] * 0.9}

    plain = fresh(PROMPT, **OPTIONS, callback_on_step_end=shrink).frames
    replayed = with_fake(fresh, FakeRecorder())(PROMPT, **OPTIONS, callback_on_step_end=shrink).frames
    assert torch.equal(replayed, plain)


def test_latents_of_another_precision_are_evaluated_as_usual(fresh: M4VPipeline) -> None:
    def widen(pipe: M4VPipeline, step: int, timestep: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"].double() if step % 4 == 2 else tensors["latents"].float()}

    plain = fresh(PROMPT, **OPTIONS, callback_on_step_end=widen).frames
    replayed = with_fake(fresh, FakeRecorder())(PROMPT, **OPTIONS, callback_on_step_end=widen).frames
    assert torch.equal(replayed, plain)


def test_a_failed_recording_is_said_once_and_changes_nothing(
    fresh: M4VPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    plain = fresh(PROMPT, **OPTIONS).frames
    recorder = FakeRecorder(fails=True)
    with caplog.at_level(logging.WARNING, logger="m4v"):
        assert torch.equal(with_fake(fresh, recorder)(PROMPT, **OPTIONS).frames, plain)
    said = [record.getMessage() for record in caplog.records if "CUDA graphs" in record.getMessage()]
    assert len(said) == 1
    assert "operation not permitted when stream is capturing)" in said[0]


def test_long_sequences_and_few_steps_are_not_recorded(fresh: M4VPipeline) -> None:
    recorder = FakeRecorder()
    # Units of 4 x 4 cells and both guidance branches: 2 cells at the coarsest level of unit 0, and 2 more per unit.
    with_fake(fresh, recorder, max_cells=4)(PROMPT, **OPTIONS)
    assert recorder.num_records == 2
    recorder = FakeRecorder()
    with_fake(fresh, recorder)(PROMPT, **OPTIONS | {"num_inference_steps": 4})
    assert recorder.num_records == 0


def test_a_stopped_or_abandoned_video_leaves_nothing(fresh: M4VPipeline) -> None:
    def stop(pipe: M4VPipeline, step: int, timestep: float, tensors: dict[str, Tensor]) -> None:
        pipe._interrupt = step == 9

    recorder = FakeRecorder()
    with_fake(fresh, recorder)(PROMPT, **OPTIONS, callback_on_step_end=stop)
    assert recorder.is_closed
    recorder = FakeRecorder()
    stream = with_fake(fresh, recorder).stream(PROMPT, **OPTIONS)
    next(stream)
    stream.close()
    assert recorder.is_closed


def test_hooks_forbid_replaying(fresh: M4VPipeline) -> None:
    network = fresh.transformer
    assert not has_hooks(network)
    handle = network.proj_out.register_forward_hook(lambda *_: None)
    assert has_hooks(network)
    handle.remove()
    fresh.enable_vae_tiling()  # another network's matter
    assert not has_hooks(network)
    network.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    assert has_hooks(network)
    recorder = FakeRecorder()
    with_fake(fresh, recorder)(PROMPT, **OPTIONS)
    assert recorder.num_records == 0


def test_offload_hooks_forbid_replaying() -> None:
    from accelerate.hooks import CpuOffload, add_hook_to_module

    network = nn.Sequential(nn.Linear(2, 2))
    add_hook_to_module(network[0], CpuOffload("cpu"))
    assert has_hooks(network)


def test_no_graphs_on_the_cpu_or_when_switched_off(fresh: M4VPipeline) -> None:
    assert fresh._graph_replay(torch.device("cpu")) is None
    fresh.use_cuda_graphs = False
    assert fresh._graph_replay(torch.device("cuda", 0)) is None


KERNELS, PLAIN_TORCH = 16, 8
"""Head widths that the scan's kernels take, and that they leave to the reference."""


@pytest.fixture
def on_device(request: pytest.FixtureRequest) -> Iterator[M4VPipeline]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pipeline = debug_pipeline()
    head_dim = getattr(request, "param", KERNELS)
    sizes = {"attention_head_dim": head_dim, "rope_axes_dims": (head_dim // 2, head_dim // 4, head_dim // 4)}
    torch.manual_seed(0)
    network = M4VTransformer3DModel(**denoiser_preset("debug") | sizes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pipeline.register_modules(transformer=network)
    yield pipeline.to("cuda")
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.parametrize("guidance", [{}, GUIDED_TWICE], ids=["cfg", "self-quality"])
@pytest.mark.parametrize(
    ("on_device", "compiled"),
    [(KERNELS, False), (PLAIN_TORCH, False), (KERNELS, True)],
    indirect=["on_device"],
    ids=["kernels", "plain torch", "kernels, compiled"],
)
def test_graphs_on_a_device_give_the_same_bits(
    on_device: M4VPipeline, guidance: dict, compiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if compiled:
        on_device.compile_denoiser()
    on_device.use_cuda_graphs = False
    plain = on_device(PROMPT, **OPTIONS, **guidance).frames
    on_device.use_cuda_graphs = True
    records: list[int] = []
    record = CudaRecorder.record
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, logger="m4v"):
        patch.setattr(CudaRecorder, "record", lambda self, function: records.append(1) or record(self, function))
        replayed = on_device(PROMPT, **OPTIONS, **guidance).frames
    assert torch.equal(replayed, plain)
    assert len(records) >= 12
    assert "CUDA graphs are off" not in caplog.text


@pytest.mark.gpu
def test_graphs_do_not_pile_up_memory(on_device: M4VPipeline) -> None:
    """A history window keeps units alike, so that memory may not grow with their number; nor from video to video."""
    after_unit: list[int] = []
    for _ in on_device.stream(PROMPT, **OPTIONS | {"num_frames": 49, "history_window": 2}):
        torch.cuda.synchronize()
        after_unit.append(torch.cuda.memory_reserved())
    assert after_unit[-1] <= 1.05 * after_unit[4]
    levels = [torch.cuda.memory_reserved()]
    for _ in range(3):
        on_device(PROMPT, **OPTIONS)
        levels.append(torch.cuda.memory_reserved())
    assert levels[-1] <= 1.05 * levels[1]


@pytest.mark.gpu
@pytest.mark.parametrize("on_device", [KERNELS, PLAIN_TORCH], indirect=True, ids=["kernels", "plain torch"])
def test_no_step_waits_for_the_device(on_device: M4VPipeline) -> None:
    """From the second step of a level on, the host reads nothing back."""
    on_device.use_cuda_graphs = False
    on_device(PROMPT, **OPTIONS)

    def watch(pipe: M4VPipeline, step: int, timestep: float, tensors: dict[str, Tensor]) -> None:
        torch.cuda.set_sync_debug_mode("default" if step % 6 == 5 else "error")

    try:
        frames = on_device(PROMPT, **OPTIONS, callback_on_step_end=watch).frames
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(frames.float().cpu().numpy()).all()
