"""FirstBlockCache and MagCache of diffusers on our blocks: exact where nothing is skipped, fewer blocks where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig
from torch import Tensor, nn

from m4v.models.denoiser.caching import in_cache_context
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.diffusers_habits.bases import PYRAMID, Base, pyramid_model
from tests.models.denoiser.builders import history_and_noisy, prompts, times
from tests.pipelines.debug_parts import debug_pipeline

ALWAYS_COMPUTE, ALWAYS_SKIP = FirstBlockCacheConfig(threshold=0.0), FirstBlockCacheConfig(threshold=1e9)


@contextmanager
def cached(base: Base, model: Any, config: FirstBlockCacheConfig | MagCacheConfig) -> Iterator[list[int]]:
    """Cache enabled; yields a list that grows by one for every evaluation of the last block's mixer."""
    runs: list[int] = []
    last: nn.Module = base.mixer_of(base.blocks(model)[-1])
    handle = last.register_forward_pre_hook(lambda *_: runs.append(1))
    model.enable_cache(config)
    try:
        yield runs
    finally:
        model._reset_stateful_cache()
        model.disable_cache()
        handle.remove()


def latents(pipeline: M4VPipeline, steps: int = 3, **options) -> Tensor:
    return pipeline("a red ball", seed=1, num_inference_steps=steps, output_type="latent", **options).frames


@pytest.fixture(scope="module")
def pipeline() -> M4VPipeline:
    return debug_pipeline()


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    return base.build()


def test_a_cache_that_never_skips_changes_no_bit(base, model):
    plain = [base.velocity(model, seed=seed) for seed in (0, 1)]
    with cached(base, model, ALWAYS_COMPUTE) as runs, model.cache_context("one"):
        assert all(torch.equal(base.velocity(model, seed=seed), plain[seed]) for seed in (0, 1))
    assert len(runs) == 2
    assert torch.equal(base.velocity(model), plain[0])  # and none is left when it is switched off


def test_a_skipped_evaluation_adds_the_remembered_change_of_both_streams(base, model):
    """First block as now, all others as in the evaluation before: text and video alike."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"first": [], "last": []}
    blocks = {"first": base.blocks(model)[0], "last": base.blocks(model)[-1]}
    handles = [
        block.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output))
        for name, block in blocks.items()
    ]
    base.velocity(model, seed=0)
    base.velocity(model, seed=1)
    plain = {name: list(outputs) for name, outputs in seen.items()}
    with cached(base, model, ALWAYS_SKIP) as runs, model.cache_context("one"):
        base.velocity(model, seed=0)
        base.velocity(model, seed=1)
    for handle in handles:
        handle.remove()
    assert len(runs) == 1
    for stream in (0, 1):
        change = plain["last"][0][stream] - plain["first"][0][stream]
        torch.testing.assert_close(seen["last"][-1][stream], plain["first"][1][stream] + change, rtol=1e-5, atol=1e-5)


def test_contexts_keep_apart_what_differs_in_history_or_batch():
    model = pyramid_model()
    clips, text = history_and_noisy(dtype=torch.float32), prompts(dtype=torch.float32)
    with cached(PYRAMID, model, ALWAYS_SKIP) as runs, torch.no_grad():
        denoiser = in_cache_context(model, "unit 3, level 2")
        for _ in range(2):
            denoiser(clips, times(dtype=torch.float32), text)
            denoiser(clips[-1:], times(dtype=torch.float32), text)
        assert len(runs) == 2
        in_cache_context(model, "unit 4, level 2")(clips, times(dtype=torch.float32), text)
        assert len(runs) == 3


def test_a_model_without_cache_is_left_as_it_is(model):
    assert in_cache_context(model, "unit 0, level 0") is model


def test_a_pipeline_call_with_a_cache_that_never_skips_gives_the_same_video(pipeline):
    plain = latents(pipeline)
    with cached(PYRAMID, pipeline.transformer, ALWAYS_COMPUTE):
        assert torch.equal(latents(pipeline), plain)


def test_a_pipeline_call_computes_each_unit_and_level_at_least_once(pipeline):
    plain = latents(pipeline)
    with cached(PYRAMID, pipeline.transformer, ALWAYS_SKIP) as runs:
        skipped = latents(pipeline)
        assert len(runs) == 3 * 3  # units times levels, of 27 solver steps
        assert torch.equal(latents(pipeline), skipped)  # nothing is left over from the call before
    assert not torch.equal(skipped, plain)
    assert torch.equal(latents(pipeline), plain)


def test_a_sliding_window_does_not_carry_a_cache_into_the_next_unit(pipeline):
    """From the third unit on, sequences have the same length as in the unit before."""
    with cached(PYRAMID, pipeline.transformer, ALWAYS_SKIP) as runs:
        latents(pipeline, steps=2, num_frames=17, history_window=1)
    assert len(runs) == 5 * 3


def test_mag_cache_calibrates_and_skips(base, model, capsys):
    plain = [base.velocity(model, seed=seed) for seed in (0, 1)]
    with cached(base, model, MagCacheConfig(calibrate=True, num_inference_steps=2)), model.cache_context("one"):
        assert all(torch.equal(base.velocity(model, seed=seed), plain[seed]) for seed in (0, 1))
    assert "Calibration Complete" in capsys.readouterr().out
    skipping = MagCacheConfig(mag_ratios=[1.0, 1.0], num_inference_steps=2, retention_ratio=0.0)
    with cached(base, model, skipping) as runs, model.cache_context("one"):
        base.velocity(model, seed=0)
        base.velocity(model, seed=1)
    assert len(runs) == 1
