"""Weights kept in 8 bits: layer-wise casting to float8 and int8 quantisation, with step sizes in float32."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.diffusers_habits.bases import Base, relative_error
from tests.pipelines.debug_parts import debug_pipeline

HALF = torch.bfloat16
FLOAT8 = torch.float8_e4m3fn
STEP_SIZES = ("A_log", "dt_bias", "D_skip", "dt_proj", "to_dt")
# Kept as loaded: small, and each changes every token or every step.
NOT_CAST = (*STEP_SIZES, "conv_", "norm", "registers", "gate", "modulation", "table", "embed", "^proj_out")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    base.build().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reference(base) -> Tensor:
    return base.velocity(base.build())


def test_layerwise_casting_stores_matrices_in_float8_and_nothing_else(base, folder, reference):
    model = base.model_class.from_pretrained(folder, dtype=HALF)
    before = {name: parameter.dtype for name, parameter in model.named_parameters()}
    model.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=HALF)
    for _ in range(2):  # before a call and after it
        for name, parameter in model.named_parameters():
            is_kept = any(re.search(part, name) for part in NOT_CAST)
            assert parameter.dtype == (before[name] if is_kept else FLOAT8), name
        close = base.velocity(model, HALF)
    assert model.dtype == HALF
    assert relative_error(close, reference) < 0.08


def test_layerwise_casting_halves_the_memory_of_a_half_precision_model_in_the_paper_s_proportions():
    with torch.device("meta"):
        model = M4VTransformer3DModel()
    bytes_in_half = 2 * sum(parameter.numel() for parameter in model.parameters())
    model.to(HALF).enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=HALF)
    stored = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored / bytes_in_half < 0.65


torchao = pytest.importorskip("torchao.quantization")


def int8_model(base: Base, folder: Path) -> Any:
    from diffusers import TorchAoConfig

    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    return base.model_class.from_pretrained(folder, dtype=HALF, quantization_config=settings)


def test_int8_weights_leave_step_sizes_in_float32(base, folder, reference):
    model = int8_model(base, folder)
    kinds = {name: type(parameter.data) for name, parameter in model.named_parameters()}
    quantised = {name for name, kind in kinds.items() if kind is not Tensor}
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kept = {name for name in linears if base.step_projection in name}
    assert len(kept) == 2
    assert kept <= linears - quantised
    assert {name for name in linears if "blocks." in name} - kept <= quantised
    for name, parameter in model.named_parameters():
        if any(part in name for part in STEP_SIZES):
            assert parameter.dtype == torch.float32, name
    assert relative_error(base.velocity(model, HALF), reference) < 0.05


def test_an_int8_model_is_saved_and_opened_again(base, folder, tmp_path):
    model = int8_model(base, folder)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {stored[name].dtype for name in stored if "blocks.1." in name and "qdata" in name} == {torch.int8}
    loaded = base.model_class.from_pretrained(tmp_path, dtype=HALF)
    assert torch.equal(base.velocity(loaded, HALF), base.velocity(model, HALF))


def test_a_pipeline_quantises_the_part_it_is_told_to(tmp_path):
    from diffusers import TorchAoConfig
    from diffusers.quantizers import PipelineQuantizationConfig

    debug_pipeline().save_pretrained(tmp_path / "model")
    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    options = PipelineQuantizationConfig(quant_mapping={"transformer": settings})
    plain, quantised = (
        M4VPipeline.from_pretrained(tmp_path / "model", dtype=HALF, **more)
        for more in ({}, {"quantization_config": options})
    )
    assert not any(type(parameter.data) is not Tensor for parameter in quantised.vae.parameters())
    frames = [latents(pipeline) for pipeline in (plain, quantised)]
    assert 0 < relative_error(frames[1], frames[0]) < 0.02
    quantised.save_pretrained(tmp_path / "int8")
    assert torch.equal(latents(M4VPipeline.from_pretrained(tmp_path / "int8", dtype=HALF)), frames[1])


def latents(pipeline: M4VPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a red ball", seed=1, output_type="latent").frames
