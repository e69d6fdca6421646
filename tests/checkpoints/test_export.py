"""Exported folders open as pipelines and generate the same video."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from m4v.checkpoints import bundled
from m4v.checkpoints.export import export_pipeline
from m4v.core.errors import UserError
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, debug_parts, debug_pipeline

PROMPT = "a red ball rolls"
FACTS = {"recipe": "debug", "steps": 3, "scores": {"colour": 0.5}}


def latents(pipeline: M4VPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, seed=4, output_type="latent").frames


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "tiny"
    return export_pipeline(target, **debug_parts(), defaults=DEFAULTS, training_facts=FACTS)


def test_save_load_generate_is_the_same_video(saved_model):
    loaded = M4VPipeline.from_pretrained(saved_model)
    assert torch.equal(latents(loaded), latents(debug_pipeline()))
    assert loaded.generation_defaults == DEFAULTS
    assert loaded.training_facts == {"recipe": "debug", "scores": {"colour": 0.5}}


def test_export_and_save_pretrained_write_the_same_folder(exported, tmp_path):
    debug_pipeline().save_pretrained(tmp_path / "tiny", training_facts=FACTS)
    names = sorted(file.relative_to(exported) for file in exported.rglob("*"))
    assert names == sorted(file.relative_to(tmp_path / "tiny") for file in (tmp_path / "tiny").rglob("*"))
    for name in names:
        if (exported / name).is_file():
            assert (exported / name).read_bytes() == (tmp_path / "tiny" / name).read_bytes(), name


def test_the_export_generates_and_tells_its_story(exported):
    loaded = M4VPipeline.from_pretrained(exported)
    assert torch.equal(latents(loaded), latents(debug_pipeline()))
    assert loaded.training_facts == FACTS
    card = (exported / "README.md").read_text()
    assert "| scores.colour | 0.5 |" in card
    assert "| later_steps | 1, 1, 1 |" in card
    assert "m4v generate" in card


def test_bfloat16_export_leaves_the_modules_alone_and_halves_the_files(exported, tmp_path):
    parts = debug_parts()
    before = {name: tensor.clone() for name, tensor in parts["transformer"].state_dict().items()}
    target = export_pipeline(tmp_path / "half", **parts, defaults=DEFAULTS, dtype=torch.bfloat16)
    for name, tensor in parts["transformer"].state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    weights = load_file(target / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    decay = load_file(target / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for name, tensor in decay.items() if name.endswith("A_log")} == {torch.float32}
    loaded = M4VPipeline.from_pretrained(target)
    assert {part.dtype for part in (loaded.vae, loaded.transformer, loaded.text_encoder)} == {torch.float32}
    video = latents(loaded)
    assert (video - latents(debug_pipeline())).abs().mean() < 0.1 * video.abs().mean()
    assert "Nothing was recorded" in (target / "README.md").read_text()


def test_loading_in_bfloat16_generates(exported):
    loaded = M4VPipeline.from_pretrained(exported, dtype=torch.bfloat16)
    assert loaded.transformer.dtype == torch.bfloat16
    assert latents(loaded).isfinite().all()


def test_exporting_again_replaces_the_folder(tmp_path):
    export_pipeline(tmp_path / "m", **debug_parts(), defaults=DEFAULTS, training_facts=FACTS)
    export_pipeline(tmp_path / "m", **debug_parts(), defaults=DEFAULTS)
    assert not (tmp_path / "m" / "training.json").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_bundled_name_opens_without_network(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "tiny")
    monkeypatch.setattr(bundled, "bundled_root", lambda: tmp_path)
    assert torch.equal(latents(M4VPipeline.from_pretrained("tiny")), latents(debug_pipeline()))


def test_a_broken_folder_is_explained_by_from_pretrained(exported, tmp_path):
    broken = shutil.copytree(exported, tmp_path / "broken")
    config = broken / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_single_layers": 4}))
    with pytest.raises(UserError, match="another configuration"):
        M4VPipeline.from_pretrained(broken)


def test_saving_a_loaded_model_forgets_where_it_came_from(exported, tmp_path):
    M4VPipeline.from_pretrained(exported).save_pretrained(tmp_path / "again")
    for file in (tmp_path / "again").rglob("*.json"):
        assert str(exported) not in file.read_text(), file
    assert json.loads((tmp_path / "again" / "training.json").read_text()) == FACTS


def test_an_unwritable_target_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        export_pipeline(tmp_path / "file" / "m", **debug_parts(), defaults=DEFAULTS)
    with pytest.raises(UserError, match="Cannot write"):
        debug_pipeline().save_pretrained(tmp_path / "file" / "m")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
