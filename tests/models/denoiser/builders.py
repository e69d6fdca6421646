"""Small networks, clips and prompts for the denoiser tests; parameters are random so that no zero gate hides."""

from typing import Any

import torch
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel, sequence_layout

NUM_TEXT = 5


def debug_arguments(**changes: Any) -> dict[str, Any]:
    """Arguments of the `debug` size; a dictionary changes only the nested settings it names."""
    arguments = denoiser_preset("debug")
    for name, value in changes.items():
        arguments[name] = arguments[name] | value if isinstance(value, dict) else value
    return arguments


def randomise(module: nn.Module, seed: int = 0, std: float = 0.3) -> None:
    """Give every parameter normal values; Mamba's own (A_log, dt_bias) keep their range."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.rpartition(".")[2] in ("A_log", "dt_bias"):
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            is_norm = "norm_" in name and parameter.ndim == 1
            parameter.copy_(noise * std + (1.0 if is_norm else 0.0))


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> M4VTransformer3DModel:
    """A `debug` model with random parameters, in float64 unless asked otherwise."""
    torch.manual_seed(seed)
    model = M4VTransformer3DModel(**debug_arguments(**changes)).to(dtype)
    randomise(model, seed)
    return model.eval()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers that depend on the seed and the shape only."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def history_and_noisy(
    levels: tuple[int, ...] = (0, 0, 1, 2),
    batch: int = 2,
    channels: int = 4,
    base: tuple[int, int] = (1, 2),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[LevelClip]:
    """One clip per level given; a frame of level k is `base * 2^k` cells in size. The last one is the noisy frame."""
    return [
        LevelClip(
            normal(batch, channels, 1, base[0] * 2**level, base[1] * 2**level, seed=100 * seed + i, dtype=dtype), level
        )
        for i, level in enumerate(levels)
    ]


def prompts(
    lengths: tuple[int, ...] = (3, 5), width: int = 16, seed: int = 0, dtype: torch.dtype = torch.float64
) -> TextConditioning:
    """One prompt per length, padded with non-zero rubbish to NUM_TEXT tokens."""
    mask = torch.arange(NUM_TEXT) < torch.tensor(lengths)[:, None]
    batch = len(lengths)
    return TextConditioning(
        normal(batch, NUM_TEXT, width, seed=seed + 1, dtype=dtype),
        mask,
        normal(batch, width, seed=seed + 2, dtype=dtype),
    )


def times(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Some timestep per sample, in scheduler units."""
    return torch.linspace(700.5, 123.25, batch, dtype=dtype)


def layout_of(clips: list[LevelClip], num_text: int = NUM_TEXT, patch_size: int = 1) -> SequenceLayout:
    """Token layout of clips."""
    return sequence_layout(clips, patch_size, num_text)
