"""Tiny Wan2.1 checkpoints on disk, in both layouts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from m4v.checkpoints.wan_names import wan_renaming
from tests.models.denoiser.builders import randomise
from tests.pipelines.wan_parts import TRANSFORMER, wan_parts

WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORK = TRANSFORMER | {"num_layers": 3}
ORIGINAL_CONFIG = {
    "_class_name": "WanModel",
    "_diffusers_version": "0.30.0",
    "dim": 24,
    "eps": 1e-6,
    "ffn_dim": 32,
    "freq_dim": 16,
    "in_dim": 4,
    "model_type": "t2v",
    "num_heads": 2,
    "num_layers": 3,
    "out_dim": 4,
    "text_len": 512,
}


def stock_network(**changes: Any) -> WanTransformer3DModel:
    """A network of diffusers' own class; every tensor random."""
    torch.manual_seed(0)
    network = WanTransformer3DModel(**NETWORK | changes)
    randomise(network, 7)
    return network.eval()


def original_tensors(network: WanTransformer3DModel) -> dict[str, Tensor]:
    """Its tensors under the names of the original code."""
    names = wan_renaming(len(network.blocks)).ours_to_theirs
    return {names[name]: tensor.clone() for name, tensor in network.state_dict().items()}


def save_original(
    folder: Path, tensors: Mapping[str, Tensor] | None = None, config: Mapping[str, Any] | None = ORIGINAL_CONFIG
) -> Path:
    """A folder in the original layout: one file, configuration at its side unless None."""
    folder.mkdir(parents=True)
    save_file(dict(tensors or original_tensors(stock_network())), folder / WEIGHTS, metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=4))
    return folder


def save_pipeline(folder: Path, **options: Any) -> Path:
    """A whole stock pipeline folder in the layout of diffusers."""
    parts = wan_parts(stock=True) | {"transformer": stock_network()}
    WanPipeline(**parts).save_pretrained(folder, **options)
    return folder
