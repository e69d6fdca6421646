"""Saving and loading the pyramid model and pipeline: variants, shards, precisions, and diffusers' own openers."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline
from torch import Tensor

from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.diffusers_habits.bases import relative_error
from tests.pipelines.debug_parts import debug_pipeline

WAYS = {
    "plain": {},
    "variant": {"variant": "bf16"},
    "shards": {"max_shard_size": "40KB"},
    "sharded variant": {"variant": "bf16", "max_shard_size": "40KB"},
}


def opened(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name == "variant"}


def latents(pipeline: M4VPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a red ball", seed=1, output_type="latent").frames


@pytest.fixture(scope="module")
def pipeline() -> M4VPipeline:
    return debug_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    pipeline.save_pretrained(path)
    return path


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_model_comes_back_as_it_was_saved(base, options, tmp_path):
    model = base.build()
    model.save_pretrained(tmp_path, **options)
    loaded = base.model_class.from_pretrained(tmp_path, **opened(options))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in options)
    assert all(".bf16" in file.name for file in tmp_path.glob("*.safetensors")) == ("variant" in options)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    assert relative_error(base.velocity(loaded), base.velocity(model)) < 1e-6


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_pipeline_comes_back_as_it_was_saved(options, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model", **options)
    loaded = M4VPipeline.from_pretrained(tmp_path / "model", **opened(options))
    assert torch.equal(latents(loaded), latents(pipeline))


def test_a_variant_has_to_be_named(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model", variant="bf16")
    with pytest.raises(UserError, match='choose that with variant="bf16"'):
        M4VPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("word", ["dtype", "torch_dtype"])
def test_half_precision_keeps_the_state_space_parameters_in_float32(base, word, tmp_path):
    model = base.build()
    model.save_pretrained(tmp_path)
    half = base.model_class.from_pretrained(tmp_path, **{word: torch.bfloat16})
    assert half.dtype == torch.bfloat16
    for name, parameter in half.named_parameters():
        if {"A_log", "dt_bias", "D_skip", base.step_projection} & set(name.split(".")):
            assert parameter.dtype == torch.float32, name
    assert relative_error(base.velocity(half, torch.bfloat16), base.velocity(model)) < 0.03


def test_each_part_of_a_pipeline_may_have_its_own_precision(folder):
    loaded = M4VPipeline.from_pretrained(folder, dtype={"transformer": torch.bfloat16, "default": torch.float32})
    assert (loaded.transformer.dtype, loaded.vae.dtype) == (torch.bfloat16, torch.float32)


def test_diffusers_auto_model_opens_parts_of_a_model_folder(folder, pipeline):
    transformer = AutoModel.from_pretrained(str(folder), subfolder="transformer")
    vae = AutoModel.from_pretrained(str(folder), subfolder="vae")
    assert (type(transformer), type(vae)) == (M4VTransformer3DModel, CausalVideoVAE)
    parts = dict(pipeline.components, transformer=transformer, vae=vae)
    assert torch.equal(latents(M4VPipeline(**parts, defaults=pipeline.generation_defaults)), latents(pipeline))


def test_what_diffusers_cannot_open_by_itself(folder):
    """As the guide says: it looks classes up in its own namespace."""
    with pytest.raises(AttributeError, match="M4VPipeline"):
        DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="`diffusers` has no class `M4VTransformer3DModel`"):
        AutoModel.from_pretrained(str(folder / "transformer"))
