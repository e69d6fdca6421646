"""Wan model folders: stock ones open with our network, ours come back the same, neighbours are named."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoModel, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.utils import logging as diffusers_logging

from m4v.checkpoints.weights import load_tensors, save_tensors
from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.flow.library_schedulers import make_library_scheduler
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.pipelines.debug_parts import debug_pipeline
from tests.pipelines.wan_parts import stock_pipeline, wan_parts, wan_pipeline

PROMPT = "a red ball rolls"
SIZE = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(autouse=True, scope="module")
def quiet():
    diffusers_logging.disable_progress_bar()
    yield
    diffusers_logging.enable_progress_bar()


@pytest.fixture(scope="session")
def stock_folder(tmp_path_factory) -> Path:
    """A folder as diffusers writes it; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("wan") / "stock"
    stock_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def our_folder(tmp_path_factory) -> Path:
    """A folder as we write it, with state-space layers."""
    folder = tmp_path_factory.mktemp("wan") / "ours"
    wan_pipeline(mixer_plan="interleaved").save_pretrained(folder, training_facts={"recipe": "none"})
    return folder


def opened(folder: Path, **options) -> WanM4VPipeline:
    pipeline = WanM4VPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline, **options) -> torch.Tensor:
    return pipeline(
        PROMPT, output_type="latent", generator=generator_for(3), max_sequence_length=16, **SIZE | options
    ).frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stock_folder_opens_with_our_network_and_equal_latents(stock_folder, dtype, caplog):
    with caplog.at_level(logging.WARNING, logger="m4v"):
        ours = opened(stock_folder, dtype=dtype)
    theirs = WanPipeline.from_pretrained(stock_folder, dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    assert type(ours.transformer) is WanM4VTransformer3DModel
    assert ours.transformer.dtype == theirs.transformer.dtype == dtype
    assert ours.vae.dtype == torch.float32
    assert torch.equal(latents(ours), latents(theirs))
    assert "attention in every layer" in caplog.text
    assert ours.generation_defaults.first_guidance == 6.0


def test_a_stock_folder_keeps_its_sampler_and_another_than_the_recommended_is_said(stock_folder, tmp_path, caplog):
    folder = Path(shutil.copytree(stock_folder, tmp_path / "stock"))
    stock_pipeline(scheduler="euler").save_pretrained(folder)
    with caplog.at_level(logging.WARNING, logger="m4v"):
        ours = opened(folder)
    assert isinstance(ours.scheduler, FlowMatchEulerDiscreteScheduler)
    assert "UniPCMultistepScheduler with shift 8 is recommended: use_scheduler('unipc')" in caplog.text
    given = make_library_scheduler("unipc", 9.0)
    assert opened(folder, scheduler=given).scheduler is given


def test_a_sampler_chosen_by_the_owner_comes_back(tmp_path):
    pipeline = wan_pipeline()
    pipeline.use_scheduler("unipc", flow_shift=8.0)
    pipeline.save_pretrained(tmp_path / "model")
    again = opened(tmp_path / "model")
    assert again.scheduler.config["flow_shift"] == 8.0
    assert torch.equal(latents(again), latents(pipeline))
    pipeline.use_scheduler("unipc")
    pipeline.save_pretrained(tmp_path / "model")
    again = opened(tmp_path / "model")
    again(PROMPT, height=720, width=720, num_frames=1, num_inference_steps=1, output_type="latent")
    assert again.scheduler.config["flow_shift"] == 5.0


def test_the_denoiser_opens_alone_and_in_diffusers_pipeline(our_folder):
    alone = AutoModel.from_pretrained(str(our_folder), subfolder="transformer")
    assert type(alone) is WanM4VTransformer3DModel
    assert alone.config["mixer_plan"] == "interleaved"
    theirs = WanPipeline.from_pretrained(our_folder)
    theirs.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents(theirs), latents(opened(our_folder)), rtol=1e-4, atol=1e-5)


def test_a_folder_of_ours_comes_back_the_same(our_folder):
    pipeline = wan_pipeline(mixer_plan="interleaved")
    again = opened(our_folder)
    assert again.generation_defaults == pipeline.generation_defaults
    assert again.training_facts == {"recipe": "none"}
    assert torch.equal(latents(again), latents(pipeline))
    frames = [next(iter(each.stream(PROMPT, seed=1))) for each in (again, pipeline)]
    assert np.array_equal(*frames)


def test_a_folder_of_ours_says_what_it_is(our_folder):
    index = json.loads((our_folder / "model_index.json").read_text())
    assert index["_class_name"] == "WanM4VPipeline"
    assert index["transformer"] == ["m4v.models.denoiser.wan", "WanM4VTransformer3DModel"]
    assert index["defaults"]["first_guidance"] == 3.0
    assert "_name_or_path" not in index
    assert json.loads((our_folder / "transformer" / "config.json").read_text())["_class_name"] == (
        "WanM4VTransformer3DModel"
    )
    card = (our_folder / "README.md").read_text()
    assert 'WanM4VPipeline.from_pretrained("ours")' in card
    assert "Wan2.1 base" in card


def test_a_stock_folder_saved_by_us_is_ours(stock_folder, tmp_path):
    opened(stock_folder).save_pretrained(tmp_path / "copy")
    again = opened(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "model_index.json").read_text())["_class_name"] == "WanM4VPipeline"
    torch.testing.assert_close(latents(again), latents(opened(stock_folder)), rtol=1e-4, atol=1e-5)


def test_a_stock_denoiser_in_our_pipeline_survives_saving(tmp_path):
    pipeline = WanM4VPipeline(**wan_parts(stock=True))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "mixed")
    again = opened(tmp_path / "mixed")
    assert type(again.transformer) is WanM4VTransformer3DModel
    torch.testing.assert_close(latents(again), latents(pipeline), rtol=1e-4, atol=1e-5)


def test_variants_and_shards(tmp_path):
    pipeline = wan_pipeline()
    pipeline.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="10KB")
    names = sorted(file.name for file in (tmp_path / "model" / "transformer").glob("*.safetensors*"))
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names
    assert len(names) > 2
    assert torch.equal(latents(opened(tmp_path / "model", variant="fp16")), latents(pipeline))
    with pytest.raises(UserError, match='variant="fp16"'):
        opened(tmp_path / "model")


def test_parts_may_be_brought_along(our_folder, tmp_path):
    folder = Path(shutil.copytree(our_folder, tmp_path / "model"))
    shutil.rmtree(folder / "text_encoder")
    parts = wan_parts()
    pipeline = opened(folder, text_encoder=parts["text_encoder"])
    assert torch.equal(latents(pipeline), latents(opened(our_folder)))
    with pytest.raises(UserError, match="text_encoder"):
        opened(folder)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "WanImageToVideoPipeline"}, "Wan2.1 image-to-video"),
        ({"_class_name": "WanVACEPipeline"}, "Wan2.1 VACE"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, r"Wan2\.2 A14B"),
        ({"boundary_ratio": 0.875}, r"Wan2\.2 A14B"),
        ({"expand_timesteps": True}, r"Wan2\.2 TI2V 5B"),
        ({"_class_name": "FluxPipeline"}, "FLUX, an image model"),
        ({"vae": ["os", "system"]}, r"os\.system"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "expected diffusers.UniPCMultistepScheduler"),
    ],
)
def test_neighbours_and_strangers_are_refused_by_name(stock_folder, tmp_path, changes, words):
    folder = Path(shutil.copytree(stock_folder, tmp_path / "model"))
    edit(folder / "model_index.json", **changes)
    with pytest.raises(UserError, match=words):
        opened(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 36}, "image-to-video"),
        ({"image_dim": 1280}, "image-to-video"),
        ({"pos_embed_seq_len": 514}, "first-last-frame"),
        ({"num_layers": 3}, "another configuration"),
    ],
)
def test_denoisers_of_neighbours_are_refused_by_name(stock_folder, tmp_path, changes, words):
    folder = Path(shutil.copytree(stock_folder, tmp_path / "model"))
    edit(folder / "transformer" / "config.json", **changes)
    with pytest.raises(UserError, match=words):
        opened(folder)


def test_damage_is_found_before_anything_is_loaded(our_folder, tmp_path):
    folder = Path(shutil.copytree(our_folder, tmp_path / "model"))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_tensors(weights)
    del tensors["blocks.0.attn1.to_q.weight"]
    weights.unlink()
    save_tensors(weights, tensors)
    with pytest.raises(UserError, match=r"1 missing \(blocks.0.attn1.to_q.weight\)"):
        opened(folder)
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cut off|promises"):
        opened(folder)


def test_the_two_families_refuse_each_others_folders(our_folder, tmp_path):
    with pytest.raises(UserError, match="holds a WanM4VPipeline, but a M4VPipeline is needed"):
        M4VPipeline.from_pretrained(our_folder)
    debug_pipeline().save_pretrained(tmp_path / "pyramid")
    with pytest.raises(UserError, match="a pyramid model of this package"):
        opened(tmp_path / "pyramid")


def test_saving_leaves_nothing_half_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        wan_pipeline().save_pretrained(tmp_path / "file" / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_second_network_is_refused_in_a_folder_of_ours_too(tmp_path):
    wan_pipeline().save_pretrained(tmp_path / "ours")
    path = tmp_path / "ours" / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"transformer_2": ["diffusers", "WanTransformer3DModel"]}))
    with pytest.raises(UserError, match=r"names a transformer_2, as Wan2\.2 has it"):
        WanM4VPipeline.from_pretrained(tmp_path / "ours")
