"""Broken model folders are explained before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest

from m4v.checkpoints.model_folder import check_model_folder
from m4v.checkpoints.weights import load_tensors, save_tensors
from m4v.core.errors import UserError


@pytest.fixture
def model(saved_model, tmp_path) -> Path:
    return Path(shutil.copytree(saved_model, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def problem(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        check_model_folder(folder)
    return str(caught.value)


def test_a_whole_model_passes(model):
    check_model_folder(model)


def test_missing_things(model, tmp_path):
    assert "no model folder" in problem(tmp_path / "none")
    assert "model_index.json" in problem(tmp_path)
    (model / "vae" / "config.json").rename(model / "vae" / "other.json")
    assert "vae/config.json is missing" in problem(model)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler", "tokenizer", "text_encoder"])
def test_a_missing_part(model, part):
    shutil.rmtree(model / part)
    assert f"model/{part}/" in problem(model)


def test_missing_weights(model):
    (model / "text_encoder" / "model.safetensors").unlink()
    assert "text_encoder/model.safetensors is missing" in problem(model)


def test_pickled_weights_are_refused(model):
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickled" in problem(model)


def test_truncated_weights(model):
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cut off" in problem(model)


@pytest.mark.parametrize("file", ["model_index.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_broken_json(model, file):
    (model / file).write_text('{"a": ')
    assert f"{file} is not valid JSON" in problem(model)
    (model / file).write_text("[1, 2]")
    assert "expected a table" in problem(model)


def test_another_pipeline(model):
    edit(model / "model_index.json", _class_name="FluxPipeline")
    assert "holds a FluxPipeline" in problem(model)


def test_another_class_or_foreign_code_for_a_part(model):
    edit(model / "model_index.json", vae=["os", "system"])
    assert "os.system" in problem(model)
    edit(model / "model_index.json", vae=["m4v.models.vae.causal_video_vae", "CausalVideoVAE"])
    edit(model / "vae" / "config.json", _class_name="AutoencoderKL")
    assert "describes a AutoencoderKL" in problem(model)


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        ("transformer", "num_single_layers", 3),
        ("transformer", "in_channels", 8),
        ("transformer", "mixer_plan", "attention-only"),
        ("vae", "decoder_resnets", [1, 1, 2]),
        ("text_encoder", "d_ff", 32),
        ("text_encoder", "vocab_size", 99),
    ],
)
def test_weights_of_another_configuration(model, part, setting, value):
    edit(model / part / "config.json", **{setting: value})
    message = problem(model)
    assert f"model/{part}" in message
    assert "configuration" in message


@pytest.mark.parametrize(
    ("setting", "value"), [("num_attention_heads", 3.5), ("mixer_plan", "spiral"), ("colour", 1), ("mixer", {"x": 1})]
)
def test_settings_no_network_can_have(model, setting, value):
    edit(model / "transformer" / "config.json", **{setting: value})
    assert "transformer/config.json cannot be used" in problem(model)


def test_extra_and_missing_tensors(model):
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_tensors(weights)
    name = sorted(tensors)[0]
    tensors["stranger"] = tensors.pop(name)
    weights.unlink()
    save_tensors(weights, tensors)
    message = problem(model)
    assert f"1 missing ({name})" in message
    assert "1 unknown (stranger)" in message


def test_parts_the_caller_brings_are_not_looked_at(model):
    shutil.rmtree(model / "vae")
    check_model_folder(model, skip=frozenset({"vae"}))
