"""Tiny random Pyramid-Flow checkpoints in the released layout, written from the published tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from m4v.models.vae.causal_video_vae import CausalVideoVAE
from tests.models.denoiser.pyramid_flow_reference import random_weights, weight_shapes
from tests.models.text.debug_encoders import CLIP_DIM, T5_DIM, text_parts

TINY_CONFIG: dict[str, Any] = {
    "_class_name": "PyramidFluxTransformer",
    "_diffusers_version": "0.30.3",
    "attention_head_dim": 16,
    "axes_dims_rope": [4, 6, 6],
    "in_channels": 16,
    "interp_condition_pos": True,
    "joint_attention_dim": T5_DIM,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_single_layers": 2,
    "patch_size": 1,
    "pooled_projection_dim": CLIP_DIM,
    "use_flash_attn": False,
    "use_gradient_checkpointing": False,
    "use_temporal_causal": True,
}
RELEASED_CONFIG: dict[str, Any] = {
    **TINY_CONFIG,
    "attention_head_dim": 64,
    "axes_dims_rope": [16, 24, 24],
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 30,
    "num_layers": 8,
    "num_single_layers": 16,
    "pooled_projection_dim": 768,
}
TINY_VAE_CONFIG: dict[str, Any] = {
    "_class_name": "CausalVideoVAE",
    "_diffusers_version": "0.29.2",
    "add_post_quant_conv": True,
    "decoder_act_fn": "silu",
    "decoder_block_out_channels": [8, 8, 8, 8],
    "decoder_in_channels": 4,
    "decoder_layers_per_block": [1, 1, 1, 1],
    "decoder_norm_num_groups": 4,
    "decoder_out_channels": 3,
    "decoder_spatial_up_sample": [True, True, True, False],
    "decoder_temporal_up_sample": [True, True, True, False],
    "decoder_type": "causal_vae_conv",
    "downsample_scale": 8,
    "encoder_act_fn": "silu",
    "encoder_block_out_channels": [8, 8, 8, 8],
    "encoder_double_z": True,
    "encoder_in_channels": 3,
    "encoder_layers_per_block": [1, 1, 1, 1],
    "encoder_norm_num_groups": 4,
    "encoder_out_channels": 4,
    "encoder_spatial_down_sample": [True, True, True, False],
    "encoder_temporal_down_sample": [True, True, True, False],
    "encoder_type": "causal_vae_conv",
    "interpolate": False,
    "sample_size": 256,
    "scaling_factor": 0.13025,
}


def denoiser_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the denoiser that a configuration describes."""
    return weight_shapes(
        num_heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        num_dual=config["num_layers"],
        num_single=config["num_single_layers"],
        channels=config["in_channels"] // 4,
        text_dim=config["joint_attention_dim"],
        pooled_dim=config["pooled_projection_dim"],
    )


def random_denoiser(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the tiny configuration under Pyramid-Flow's names."""
    weights = random_weights(denoiser_shapes(TINY_CONFIG), seed)
    return {name: value.to(dtype) for name, value in weights.items()}


def random_vae(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights of a small autoencoder; its names are Pyramid-Flow's (see the test of the 260 names)."""
    torch.manual_seed(0)
    vae = CausalVideoVAE(
        latent_channels=4,
        encoder_widths=(8, 8, 8, 8),
        decoder_widths=(8, 8, 8, 8),
        encoder_resnets=(1, 1, 1, 1),
        decoder_resnets=(1, 1, 1, 1),
        norm_groups=4,
    )
    return {name: value.to(dtype) for name, value in vae.state_dict().items()}


def write_root(root: Path, variants: tuple[str, ...] = ("768p",), dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint root with denoisers and autoencoder."""
    for number, variant in enumerate(variants):
        write_network(root / f"diffusion_transformer_{variant}", TINY_CONFIG, random_denoiser(dtype, seed=number))
    write_network(root / "causal_video_vae", TINY_VAE_CONFIG, random_vae(dtype))
    return root


def write_network(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """Write one folder with configuration and weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(dict(state), folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder


def write_text_parts(root: Path) -> None:
    """Add tiny CLIP and T5 encoders with their tokenizers."""
    for name, part in text_parts().items():
        part.save_pretrained(root / name)


def file_contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
