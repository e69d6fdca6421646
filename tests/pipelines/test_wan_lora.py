"""LoRA files of Wan, under all three conventions of names, do what adding their products to the weights does."""

import logging

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor

from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.pipelines.wan_parts import TRANSFORMER, wan_pipeline

PROMPT = "a red ball rolls"
RANK = 2
NUM_LAYERS = TRANSFORMER["num_layers"]
# Ours and diffusers' name of a matrix -> the original's.
ORIGINAL_NAMES = {
    f"{ours}.{matrix}": f"{theirs}.{short}"
    for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
    for matrix, short in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
} | {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}


def factors(pipeline: WanM4VPipeline) -> dict[str, tuple[Tensor, Tensor]]:
    """Two random factors for every matrix, by our names."""
    generator = torch.Generator().manual_seed(7)
    pairs = {}
    for layer in range(NUM_LAYERS):
        for name in ORIGINAL_NAMES:
            weight = pipeline.transformer.get_submodule(f"blocks.{layer}.{name}").weight
            down = torch.randn(RANK, weight.shape[1], generator=generator)
            pairs[f"blocks.{layer}.{name}"] = (down, 0.2 * torch.randn(weight.shape[0], RANK, generator=generator))
    return pairs


def as_file(pairs: dict[str, tuple[Tensor, Tensor]], convention: str) -> dict[str, Tensor]:
    """The content of a LoRA file."""
    tensors = {}
    for ours, (down, up) in pairs.items():
        _, layer, name = ours.split(".", 2)
        original = f"blocks.{layer}.{ORIGINAL_NAMES[name]}"
        if convention == "diffusers":
            tensors |= {f"transformer.{ours}.lora_A.weight": down, f"transformer.{ours}.lora_B.weight": up}
        elif convention == "diffusion_model":
            prefix = f"diffusion_model.{original}"
            tensors |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
        else:
            prefix = "lora_unet_" + original.replace(".", "_")
            tensors |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
            tensors[f"{prefix}.alpha"] = torch.tensor(float(RANK))
    return tensors


def latents(pipeline: WanM4VPipeline, **options) -> Tensor:
    return pipeline(PROMPT, seed=0, output_type="latent", **options).frames


@pytest.mark.parametrize("plan", ["attention-only", "full"])
@pytest.mark.parametrize("convention", ["diffusers", "diffusion_model", "lora_unet_"])
def test_loading_equals_adding_the_products_to_the_weights(convention, plan, caplog):
    pipeline, edited = wan_pipeline(mixer_plan=plan), wan_pipeline(mixer_plan=plan)
    plain = latents(pipeline)
    pairs = factors(pipeline)
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            edited.transformer.get_submodule(name).weight.add_(up @ down)
    expected = latents(edited)
    with caplog.at_level(logging.WARNING):
        pipeline.load_lora_weights(as_file(pairs, convention))
    torch.testing.assert_close(latents(pipeline), expected, rtol=1e-3, atol=1e-4)
    assert (expected - plain).abs().max() > 0.05

    pipeline.fuse_lora(components=["transformer"])
    torch.testing.assert_close(latents(pipeline), expected, rtol=1e-3, atol=1e-4)
    pipeline.unfuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    torch.testing.assert_close(latents(pipeline), plain, rtol=1e-3, atol=1e-4)
    assert "not found" not in caplog.text


def test_scale_of_a_call_and_of_an_adapter():
    pipeline = wan_pipeline()
    plain, pairs = latents(pipeline), factors(pipeline)
    pipeline.load_lora_weights(as_file(pairs, "diffusers"), adapter_name="style")
    full = latents(pipeline)
    torch.testing.assert_close(latents(pipeline, attention_kwargs={"scale": 0.0}), plain, rtol=1e-4, atol=1e-5)
    half = latents(pipeline, attention_kwargs={"scale": 0.5})
    pipeline.set_adapters("style", 0.5)
    torch.testing.assert_close(latents(pipeline), half, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(half, full, atol=1e-3)


def test_adapters_are_saved_and_loaded_again(tmp_path):
    pipeline = wan_pipeline()
    pipeline.load_lora_weights(as_file(factors(pipeline), "diffusion_model"), adapter_name="style")
    WanM4VPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipeline.transformer, adapter_name="style"))
    again = wan_pipeline()
    again.load_lora_weights(tmp_path)
    assert torch.equal(latents(again), latents(pipeline))
