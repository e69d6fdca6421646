"""Networks on the meta device, where nothing is allocated, and their parameter counts."""

from typing import Any

import torch
from torch import nn

from m4v.core.config_io import to_plain
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.parameters import count_parameters


def meta_denoiser(config: DenoiserConfig | WanConfig) -> Any:
    """Build a denoiser of either base without memory for its weights."""
    network = WanM4VTransformer3DModel if isinstance(config, WanConfig) else M4VTransformer3DModel
    with torch.device("meta"):
        return network(**to_plain(config))


def denoiser_parameters(config: DenoiserConfig | WanConfig) -> dict[str, int]:
    """Count the parameters of a denoiser: "total", and what it is made of."""
    model = meta_denoiser(config)
    parts: dict[str, nn.Module]
    if isinstance(config, WanConfig):
        parts = {"embedders": _group(model.patch_embedding, model.condition_embedder), "blocks": model.blocks}
    else:
        parts = {
            "embedders": _group(model.time_text_embed, model.text_embedder, model.video_embedder),
            "dual_blocks": model.transformer_blocks,
            "single_blocks": model.single_transformer_blocks,
        }
    counts = {name: count_parameters(part) for name, part in parts.items()}
    total = count_parameters(model)
    return {"total": total, **counts, "head": total - sum(counts.values())}


def _group(*modules: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(modules)
