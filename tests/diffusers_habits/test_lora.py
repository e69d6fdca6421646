"""LoRA through PEFT: load, scale, mix, fuse, unload and save on the pyramid pipeline, and Pyramid-Flow's names."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from m4v.checkpoints.pyramid_flow_names import denoiser_renaming
from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.pipelines.lora import M4VLoraLoaderMixin
from tests.diffusers_habits.bases import PYRAMID, pyramid_model
from tests.pipelines.debug_parts import debug_pipeline

RANK = 2
velocity = PYRAMID.velocity
SCAN_TARGETS = ("single_transformer_blocks.0.mixer.in_proj", "single_transformer_blocks.0.mixer.dt_proj")
TARGETS = (
    *SCAN_TARGETS,
    "single_transformer_blocks.1.mixer.to_q",
    "single_transformer_blocks.2.mixer.attention.to_v",
    "single_transformer_blocks.0.joint_out",
    "transformer_blocks.0.video.to_k",
    "transformer_blocks.0.text.to_out",
)


class Pipeline(M4VLoraLoaderMixin):
    """The mixin with nothing but a denoiser."""

    hf_device_map = None

    def __init__(self, transformer: M4VTransformer3DModel) -> None:
        self.transformer = transformer
        self.components = {"transformer": transformer}


def lora(model: M4VTransformer3DModel, targets: Iterable[str], seed: int = 0, prefix: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in targets:
        rows, columns = model.get_submodule(name).weight.shape
        tensors[f"{prefix}{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
        tensors[f"{prefix}{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    return tensors


def with_added(model: M4VTransformer3DModel, *loras: tuple[dict[str, Tensor], float]) -> Tensor:
    """What a network answers whose weights have the products added."""
    merged = pyramid_model()
    merged.load_state_dict(model.state_dict())
    with torch.no_grad():
        for tensors, scale in loras:
            for name, up in tensors.items():
                if "lora_B" in name:
                    weight = merged.get_submodule(name.removesuffix(".lora_B.weight")).weight
                    weight += scale * up @ tensors[name.replace("lora_B", "lora_A")]
    return velocity(merged)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(pyramid_model())


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model.", "base_model.model.dit."])
def test_a_lora_adds_its_product_to_each_kind_of_layer(pipeline, prefix):
    plain = velocity(pipeline.transformer)
    tensors = lora(pipeline.transformer, TARGETS)
    expected = with_added(pipeline.transformer, (tensors, 1.0))
    pipeline.load_lora_weights({prefix + name: tensor for name, tensor in tensors.items()})
    changed = velocity(pipeline.transformer)
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    assert (changed - plain).abs().max() > 1e-2
    pipeline.unload_lora_weights()
    assert torch.equal(velocity(pipeline.transformer), plain)


def test_adapters_mix_fuse_and_unfuse(pipeline):
    plain = velocity(pipeline.transformer)
    first, second = (lora(pipeline.transformer, TARGETS, seed) for seed in (1, 2))
    expected = with_added(pipeline.transformer, (first, 0.5), (second, -0.25))
    pipeline.load_lora_weights(first, adapter_name="first")
    pipeline.load_lora_weights(second, adapter_name="second")
    assert pipeline.get_list_adapters() == {"transformer": ["first", "second"]}
    pipeline.set_adapters(["first", "second"], [0.5, -0.25])
    mixed = velocity(pipeline.transformer)
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)
    pipeline.fuse_lora()
    torch.testing.assert_close(velocity(pipeline.transformer), mixed, rtol=1e-4, atol=1e-4)
    assert pipeline.fused_loras == {"first", "second"}
    pipeline.unfuse_lora()
    torch.testing.assert_close(velocity(pipeline.transformer), mixed, rtol=1e-4, atol=1e-4)
    pipeline.disable_lora()
    torch.testing.assert_close(velocity(pipeline.transformer), plain, rtol=1e-4, atol=1e-4)


def test_a_saved_lora_comes_back_with_its_alpha(pipeline, tmp_path: Path):
    model = pipeline.transformer
    config = LoraConfig(r=RANK, lora_alpha=6, target_modules=list(TARGETS), init_lora_weights=False)
    model.add_adapter(config, adapter_name="trained")
    trained = velocity(model)
    pipeline.save_lora_weights(
        tmp_path,
        get_peft_model_state_dict(model, adapter_name="trained"),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    (file,) = tmp_path.iterdir()
    assert all(name.startswith("transformer.") for name in load_file(file))
    for source in (tmp_path, file):
        other = Pipeline(pyramid_model())
        other.load_lora_weights(source)
        assert torch.equal(velocity(other.transformer), trained)


def test_the_pipeline_generates_with_a_lora_in_offloaded_groups_too():
    def latents() -> Tensor:
        return pipeline("a red ball", seed=1, output_type="latent").frames

    pipeline = debug_pipeline()
    plain = latents()
    targets = ["single_transformer_blocks.0.mixer.in_proj", "transformer_blocks.0.video.to_q"]
    tensors = lora(pipeline.transformer, targets)
    pipeline.load_lora_weights(tensors, adapter_name="one")
    changed = latents()
    assert not torch.allclose(changed, plain, atol=1e-3)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(latents(), plain, rtol=1e-4, atol=1e-4)
    pipeline.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    pipeline.load_lora_weights(tensors, adapter_name="one")
    torch.testing.assert_close(latents(), changed, rtol=1e-4, atol=1e-4)


def test_pyramid_flow_names_reach_the_same_layers(tmp_path: Path):
    model = pyramid_model(mixer_plan="attention-only", num_single_layers=2)
    table = denoiser_renaming(1, 2).ours_to_theirs
    targets = [name.removesuffix(".weight") for name in table if f"{name.removesuffix('weight')}bias" in table]
    ours = lora(model, targets)
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        module, part = name.split(".lora_")
        theirs[f"dit.{table[module + '.weight'].removesuffix('.weight')}.lora_{part}"] = tensor
    assert any(".attn.to_q." in name for name in theirs)
    assert any("context_embedder" in name for name in theirs)
    save_file(theirs, tmp_path / "theirs.safetensors")
    pipelines = Pipeline(model), Pipeline(pyramid_model(mixer_plan="attention-only", num_single_layers=2))
    pipelines[0].load_lora_weights(ours)
    pipelines[1].load_lora_weights(tmp_path, weight_name="theirs.safetensors")
    assert torch.equal(velocity(pipelines[1].transformer), velocity(pipelines[0].transformer))


def test_settings_of_renamed_files_follow(tmp_path: Path):
    model = pyramid_model(mixer_plan="attention-only", num_single_layers=2)
    module, ours = "single_transformer_blocks.1.proj_out", "single_transformer_blocks.1.joint_out"
    tensors = {name.replace(ours, module): tensor for name, tensor in lora(model, [ours]).items()}
    settings = {"r": 9, "lora_alpha": 9, "target_modules": ["proj_out"], "rank_pattern": {module: RANK}}
    settings["alpha_pattern"] = {module: 3 * RANK}
    pipeline = Pipeline(model)
    pipeline.save_lora_weights(tmp_path, tensors, transformer_lora_adapter_metadata=settings)
    pipeline.load_lora_weights(tmp_path)
    assert model.get_submodule(ours).scaling == {"default_0": 3.0}


def test_a_lora_of_attention_layers_is_refused_where_a_scan_stands(pipeline):
    theirs = {
        "single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(RANK, 16),
        "single_transformer_blocks.0.attn.to_q.lora_B.weight": torch.zeros(16, RANK),
    }
    with pytest.raises(UserError, match=r"layers that this denoiser has not: single_transformer_blocks\.0\.attn\.to_q"):
        pipeline.load_lora_weights(theirs)


def test_what_is_no_lora_is_named(pipeline, tmp_path: Path):
    with pytest.raises(UserError, match=r"not LoRA weights in the layout of PEFT: lora_unet_x\.alpha"):
        pipeline.load_lora_weights({"lora_unet_x.alpha": torch.ones(())})
    (tmp_path / "old.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"old\.bin is not a safetensors file"):
        pipeline.load_lora_weights(tmp_path / "old.bin")
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="No LoRA can be read from"):
        pipeline.load_lora_weights(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"No LoRA can be read from .*nowhere"):
        pipeline.load_lora_weights(tmp_path / "nowhere", weight_name="x.safetensors")
    with pytest.raises(UserError, match="no option adaptor_name"):
        pipeline.load_lora_weights({}, adaptor_name="x")
