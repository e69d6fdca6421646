"""Parameter counts, taken from the real classes on the meta device: nothing is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.parameters import count_parameters


def meta_denoiser(arguments: Mapping[str, Any]) -> M4VTransformer3DModel:
    """Build a denoiser without memory for its weights."""
    with torch.device("meta"):
        return M4VTransformer3DModel(**arguments)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a denoiser by part."""

    total: int
    embedders: int
    dual_blocks: int
    single_blocks: int
    head: int


def denoiser_parameters(arguments: Mapping[str, Any]) -> ParameterCount:
    """Count the parameters of the denoiser that these constructor arguments build."""
    model = meta_denoiser(arguments)
    embedders = (model.time_text_embed, model.text_embedder, model.video_embedder)
    return ParameterCount(
        total=count_parameters(model),
        embedders=sum(map(count_parameters, embedders)),
        dual_blocks=count_parameters(model.transformer_blocks),
        single_blocks=count_parameters(model.single_transformer_blocks),
        head=count_parameters(model.norm_out) + count_parameters(model.proj_out),
    )
