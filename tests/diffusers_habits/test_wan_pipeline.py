"""The Wan pipeline with the habits that its parent class promises: variants, shards, int8, offload groups, caches."""

from pathlib import Path

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.diffusers_habits.bases import WAN, relative_error
from tests.diffusers_habits.test_caching import cached
from tests.diffusers_habits.test_offloading import check_groups
from tests.pipelines.wan_parts import DEFAULTS, wan_parts


def latents(pipeline: WanM4VPipeline, steps: int = 4) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline("a red ball", generator=generator, num_inference_steps=steps, output_type="latent").frames


@pytest.fixture(scope="module")
def pipeline() -> WanM4VPipeline:
    return WanM4VPipeline(**wan_parts(mixer_plan=["mm_dim", "attention"]), defaults=DEFAULTS)


@pytest.mark.parametrize("options", [{"variant": "bf16"}, {"max_shard_size": "40KB"}], ids=["variant", "shards"])
def test_a_pipeline_comes_back_as_it_was_saved(options, pipeline, tmp_path: Path):
    pipeline.save_pretrained(tmp_path / "model", **options)
    loaded = WanM4VPipeline.from_pretrained(tmp_path / "model", variant=options.get("variant"))
    torch.testing.assert_close(latents(loaded), latents(pipeline), rtol=1e-5, atol=1e-5)


def test_a_quantised_pipeline_is_saved_and_opened_again(pipeline, tmp_path: Path):
    torchao = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig
    from diffusers.quantizers import PipelineQuantizationConfig

    pipeline.save_pretrained(tmp_path / "model")
    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    options = PipelineQuantizationConfig(quant_mapping={"transformer": settings})
    half = WanM4VPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    int8 = WanM4VPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16, quantization_config=options)
    assert int8.transformer.blocks[0].attn1.to_dt.weight.dtype == torch.float32
    assert 0 < relative_error(latents(int8), latents(half)) < 0.05
    int8.save_pretrained(tmp_path / "int8")
    loaded = WanM4VPipeline.from_pretrained(tmp_path / "int8", dtype=torch.bfloat16)
    assert relative_error(latents(loaded), latents(int8)) < 1e-3


def test_a_cache_skips_steps_of_each_prompt_by_itself(pipeline):
    plain = latents(pipeline)
    with cached(WAN, pipeline.transformer, FirstBlockCacheConfig(threshold=0.0)) as runs:
        assert torch.equal(latents(pipeline), plain)
    assert len(runs) == 2 * 4
    with cached(WAN, pipeline.transformer, FirstBlockCacheConfig(threshold=1e9)) as runs:
        latents(pipeline)
    assert len(runs) == 2  # once with the prompt, once with the negative one


def test_networks_are_offloaded_in_groups():
    pipeline = WanM4VPipeline(**wan_parts(mixer_plan=["mm_dim", "attention"]), defaults=DEFAULTS)
    plain = latents(pipeline)
    pipeline.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(latents(pipeline), plain)
    check_groups(pipeline.transformer)
