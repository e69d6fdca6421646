"""Small Wan networks, ours and diffusers', with the same random weights, and inputs for them."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import wan_preset
from tests.models.denoiser.builders import normal, randomise

# Head width and feed-forward ratio of the released sizes, with few heads and layers.
SHAPES: dict[str, dict[str, int]] = {
    "1.3B-shaped": {"num_attention_heads": 3, "attention_head_dim": 128, "ffn_dim": 2240, "num_layers": 2},
    "14B-shaped": {"num_attention_heads": 2, "attention_head_dim": 128, "ffn_dim": 691, "num_layers": 3},
}
TEXT_DIM = 32
NUM_TEXT = 6


def stock_model(shape: str, seed: int = 0) -> WanTransformer3DModel:
    """diffusers' network with random parameters everywhere."""
    model = WanTransformer3DModel(**SHAPES[shape], text_dim=TEXT_DIM, freq_dim=64)
    randomise(model, seed, std=0.05)
    return model.eval()


def twin(stock: WanTransformer3DModel, **changes: Any) -> WanM4VTransformer3DModel:
    """Our network with the weights of a stock one; MM-DiM layers take what has the same name, the rest is random."""
    arguments = {key: value for key, value in stock.config.items() if not key.startswith("_")}
    model = WanM4VTransformer3DModel(**arguments, **changes)
    randomise(model, seed=1, std=0.05)
    result = model.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    return model.eval()


def debug_model(seed: int = 0, **changes: Any) -> WanM4VTransformer3DModel:
    """A `wan-debug` model with random parameters; a dictionary changes only the nested settings it names."""
    arguments = wan_preset("wan-debug")
    for name, value in changes.items():
        arguments[name] = arguments[name] | value if isinstance(value, dict) else value
    torch.manual_seed(seed)
    model = WanM4VTransformer3DModel(**arguments)
    randomise(model, seed)
    return model.eval()


def prompt_rows(lengths: tuple[int, ...], num_rows: int, width: int, seed: int = 0) -> Tensor:
    """Encoded prompts of some lengths, filled up with zero rows."""
    is_real = torch.arange(num_rows) < torch.tensor(lengths)[:, None]
    return normal(len(lengths), num_rows, width, seed=seed, dtype=torch.float32) * is_real[..., None]


def inputs(
    lengths: tuple[int, ...] = (3, NUM_TEXT),
    num_rows: int = NUM_TEXT,
    text_dim: int = 16,
    size: tuple[int, int, int] = (3, 4, 6),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arguments of one call: latents that are not square, a timestep per sample, padded prompts."""
    return {
        "hidden_states": normal(len(lengths), 16, *size, seed=seed, dtype=torch.float32),
        "timestep": torch.tensor([999, 250, 40])[: len(lengths)],
        "encoder_hidden_states": prompt_rows(lengths, num_rows, text_dim, seed + 1),
    }


def velocity(model: WanTransformer3DModel, arguments: dict[str, Tensor]) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return model(**arguments).sample


def in_dtype(arguments: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same call with floating-point arguments in another precision."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in arguments.items()}
