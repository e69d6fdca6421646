"""With attention kept, the Wan denoiser is diffusers' own, bit for bit; with silent mixers, the same less attention."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import wan_preset
from tests.models.denoiser.wan_builders import SHAPES, TEXT_DIM, in_dtype, inputs, stock_model, twin, velocity

FULL_TEXT = {"lengths": (7, 100), "num_rows": 512, "text_dim": TEXT_DIM}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_attention_equals_diffusers(shape: str, dtype: torch.dtype) -> None:
    stock = stock_model(shape)
    ours = twin(stock).to(dtype)
    arguments = in_dtype(inputs(**FULL_TEXT), dtype)
    expected = velocity(stock.to(dtype), arguments)
    assert expected.dtype == dtype
    assert expected.std() > 0.01
    assert torch.equal(velocity(ours, arguments), expected)


def test_float_timesteps_and_tuples_as_well() -> None:
    stock = stock_model("14B-shaped")
    arguments = inputs(**FULL_TEXT) | {"timestep": torch.tensor([712.25, 3.5])}
    (ours,) = twin(stock)(**arguments, return_dict=False)
    assert torch.equal(ours, velocity(stock, arguments))


@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_loading_keeps_the_islands_of_diffusers(shape: str, tmp_path: Path) -> None:
    stock_model(shape).save_pretrained(tmp_path / "transformer")
    stock = WanTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer", torch_dtype=torch.bfloat16)
    ours = WanM4VTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer", torch_dtype=torch.bfloat16)
    expected = {name: parameter.dtype for name, parameter in stock.named_parameters()}
    assert {name: parameter.dtype for name, parameter in ours.named_parameters()} == expected
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    arguments = in_dtype(inputs(**FULL_TEXT), torch.bfloat16)
    assert torch.equal(velocity(ours, arguments), velocity(stock, arguments))


@pytest.mark.parametrize(("size", "parameters"), [("wan-1.3b", 1_418_996_800), ("wan-14b", 14_288_491_584)])
def test_parameter_counts_of_the_released_sizes(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = WanM4VTransformer3DModel(**wan_preset(size))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("text_path", "dtype"),
    [
        ("carried", torch.float32),
        ("carried", torch.bfloat16),
        ("read-only", torch.float32),
        ("none", torch.float32),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_silent_mixers_equal_removed_self_attention(shape: str, text_path: str, dtype: torch.dtype) -> None:
    stock = stock_model(shape)
    kinds = ["mm_dim", "attention", "mm_dim"][: len(stock.blocks)]
    ours = twin(stock, mixer_plan=kinds, text_path=text_path)
    for layer, kind in enumerate(kinds):
        if kind == "mm_dim":
            branch = ours.blocks[layer].temporal_branch
            assert branch is not None
            nn.init.zeros_(branch.gate)
            for model in (stock, ours):
                nn.init.zeros_(model.blocks[layer].attn1.to_out[0].weight)
                nn.init.zeros_(model.blocks[layer].attn1.to_out[0].bias)
    arguments = in_dtype(inputs(lengths=(7, 20), num_rows=32, text_dim=TEXT_DIM), dtype)
    assert torch.equal(velocity(ours.to(dtype), arguments), velocity(stock.to(dtype), arguments))


def test_mm_dim_layers_do_change_the_result() -> None:
    stock = stock_model("14B-shaped")
    arguments = inputs(lengths=(7, 20), num_rows=32, text_dim=TEXT_DIM)
    assert not torch.allclose(
        velocity(twin(stock, mixer_plan="full"), arguments), velocity(stock, arguments), atol=0.01
    )
