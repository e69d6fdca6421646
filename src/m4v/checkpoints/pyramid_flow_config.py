"""Configurations of Pyramid-Flow's networks to ours and back; sizes come from the tensors (torch-free)."""

from collections.abc import Mapping, Sequence
from typing import Any

from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.vae.config import CausalVideoVAEConfig

_PATCH = 2  # the real patch; the configuration's patch_size of 1 only serves the width of the output
_LEVELS = 3
_RELEASED = DenoiserConfig()

_TRANSFORMER_CLASS = "PyramidFluxTransformer"
_VAE_CLASS = "CausalVideoVAE"

# Fixed in our autoencoder: a checkpoint with anything else is another network.
_VAE_FIXED: dict[str, Any] = {
    "add_post_quant_conv": True,
    "decoder_act_fn": "silu",
    "decoder_type": "causal_vae_conv",
    "encoder_act_fn": "silu",
    "encoder_double_z": True,
    "encoder_type": "causal_vae_conv",
    "interpolate": False,
}


def denoiser_arguments(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Arguments of `M4VTransformer3DModel` for a Pyramid-Flow denoiser.

    Args:
        config: Its `config.json`; keys may be missing.
        shapes: Of its tensors, by their names.

    Raises:
        UserError: if the configuration contradicts the tensors, or a tensor that tells a size is missing.

    Source: Pyramid-Flow, configuration of the released denoiser.
    """
    width, token_dim = _matrix(shapes, "x_embedder.weight")
    head_dim = next((shape[0] for name, shape in shapes.items() if name.endswith("attn.norm_q.weight") and shape), 0)
    if not head_dim or width % head_dim:
        raise UserError(f"The width {width} of x_embedder.weight is no multiple of the head width {head_dim}.")
    wide = [
        shape[0]
        for name, shape in shapes.items()
        if name.endswith(("ff.net.0.proj.weight", "proj_mlp.weight")) and shape
    ]
    found = {
        "in_channels": token_dim,
        "num_layers": _count_blocks(shapes, "transformer_blocks."),
        "num_single_layers": _count_blocks(shapes, "single_transformer_blocks."),
        "attention_head_dim": head_dim,
        "num_attention_heads": width // head_dim,
        "joint_attention_dim": _matrix(shapes, "context_embedder.weight")[1],
        "pooled_projection_dim": _matrix(shapes, "time_text_embed.text_embedder.linear_1.weight")[1],
    }
    for key, value in found.items():
        if key in config and config[key] != value:
            raise UserError(
                f"config.json says {key} = {config[key]}, but the tensors have {value}. Put the two files of the same "
                "model together."
            )
    if token_dim % _PATCH**2:
        raise UserError(f"x_embedder.weight takes {token_dim} values per token; expected a multiple of {_PATCH**2}.")
    axes = config.get("axes_dims_rope", list(_RELEASED.rope_axes_dims))
    if not _are_numbers(axes) or sum(axes) != head_dim:
        raise UserError(
            f"axes_dims_rope is {axes}; expected numbers that sum to the head width {head_dim}. Set it in config.json."
        )
    return {
        "in_channels": token_dim // _PATCH**2,
        "patch_size": _PATCH,
        "num_attention_heads": found["num_attention_heads"],
        "attention_head_dim": head_dim,
        "num_dual_layers": found["num_layers"],
        "num_single_layers": found["num_single_layers"],
        "mlp_ratio": wide[0] // width if wide else _RELEASED.mlp_ratio,
        "text_dim": found["joint_attention_dim"],
        "pooled_text_dim": found["pooled_projection_dim"],
        "rope_axes_dims": list(axes),
        "num_levels": _LEVELS,
        "mixer_plan": "attention-only",
        "temporal_causal_attention": bool(config.get("use_temporal_causal", True)),
        "round_timesteps_to_bfloat16": True,
    }


def denoiser_config_of(config: DenoiserConfig) -> dict[str, Any]:
    """`config.json` that Pyramid-Flow's class opens our attention-only denoiser with.

    Raises:
        UserError: if layers are no attention, or a size is none that Pyramid-Flow has.
    """
    others = [f"{layer} ({kind})" for layer, kind in enumerate(config.kinds) if kind != "attention"]
    if others:
        raise UserError(
            "Only an attention-only model can become a Pyramid-Flow checkpoint; of this one, single-stream layers "
            f"{', '.join(others)} are not attention."
        )
    for name, needed in (("patch_size", _PATCH), ("mlp_ratio", _RELEASED.mlp_ratio)):
        if getattr(config, name) != needed:
            raise UserError(f"{name} is {getattr(config, name)}; Pyramid-Flow's network always has {needed}.")
    return {
        "_class_name": _TRANSFORMER_CLASS,
        "_diffusers_version": "0.30.3",
        "attention_head_dim": config.attention_head_dim,
        "axes_dims_rope": list(config.rope_axes_dims),
        "in_channels": config.in_channels * _PATCH**2,
        "interp_condition_pos": True,
        "joint_attention_dim": config.text_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_dual_layers,
        "num_single_layers": config.num_single_layers,
        "patch_size": 1,
        "pooled_projection_dim": config.pooled_text_dim,
        "use_flash_attn": False,
        "use_gradient_checkpointing": False,
        "use_temporal_causal": config.temporal_causal_attention,
    }


def vae_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CausalVideoVAE` for a Pyramid-Flow autoencoder; keys it does not name are as released.

    Raises:
        UserError: if it is an autoencoder that our class cannot be.

    Source: Pyramid-Flow, configuration of the released autoencoder and its latent statistics.
    """
    released = CausalVideoVAEConfig.pyramid_flow()
    known = vae_config_of(released)
    settings = {**known, **{key: value for key, value in config.items() if key in known}}
    for key, value in settings.items():
        if isinstance(known[key], list) and not _are_levels(value, known[key]):
            raise UserError(
                f"The autoencoder has {key} = {value!r}; expected {len(known[key])} values like {known[key]}."
            )
    pairs = {
        "encoder_in_channels": "decoder_out_channels",
        "encoder_out_channels": "decoder_in_channels",
        "encoder_norm_num_groups": "decoder_norm_num_groups",
    }
    for one, other in pairs.items():
        if settings[one] != settings[other]:
            raise UserError(f"{one} is {settings[one]} but {other} is {settings[other]}; expected the same number.")
    for key, needed in _VAE_FIXED.items():
        if settings[key] != needed:
            raise UserError(f"The autoencoder has {key} = {settings[key]!r}; only {needed!r} is supported.")
    for axis in ("spatial", "temporal"):
        down, up = settings[f"encoder_{axis}_down_sample"], settings[f"decoder_{axis}_up_sample"]
        if list(up[:-1]) != list(reversed(down[:-1])) or up[-1]:
            raise UserError(f"decoder_{axis}_up_sample is {up}, which does not undo encoder_{axis}_down_sample {down}.")
    return to_plain(released) | {
        "in_channels": settings["encoder_in_channels"],
        "latent_channels": settings["encoder_out_channels"],
        "encoder_widths": list(settings["encoder_block_out_channels"]),
        "decoder_widths": list(settings["decoder_block_out_channels"]),
        "encoder_resnets": list(settings["encoder_layers_per_block"]),
        "decoder_resnets": list(settings["decoder_layers_per_block"]),
        "spatial_down": list(settings["encoder_spatial_down_sample"]),
        "temporal_down": list(settings["encoder_temporal_down_sample"]),
        "norm_groups": settings["encoder_norm_num_groups"],
    }


def vae_config_of(config: CausalVideoVAEConfig) -> dict[str, Any]:
    """`config.json` that Pyramid-Flow's class opens our autoencoder with.

    Raises:
        UserError: if the autoencoder has parts that Pyramid-Flow's lacks, or other latent statistics.
    """
    released = CausalVideoVAEConfig()
    statistics = CausalVideoVAEConfig.pyramid_flow().latent_statistics
    for name in ("front_patch", "mid_resnets", "norm", "mid_attention", "samplers"):
        if getattr(config, name) != getattr(released, name):
            raise UserError(
                f"The autoencoder has {name} = {getattr(config, name)!r}; Pyramid-Flow's always has "
                f"{getattr(released, name)!r}, so this model cannot become a Pyramid-Flow checkpoint."
            )
    if config.latent_statistics != statistics:
        raise UserError("The autoencoder has other latent statistics than those fixed in Pyramid-Flow's code.")
    levels = config.num_levels
    shared = {
        "act_fn": "silu",
        "block_dropout": [0.0] * levels,
        "norm_num_groups": config.norm_groups,
        "type": "causal_vae_conv",
    }
    return {
        "_class_name": _VAE_CLASS,
        "_diffusers_version": "0.29.2",
        "add_post_quant_conv": True,
        **{f"{coder}_{key}": value for coder in ("decoder", "encoder") for key, value in shared.items()},
        "decoder_block_out_channels": list(config.decoder_widths),
        "decoder_in_channels": config.latent_channels,
        "decoder_layers_per_block": list(config.decoder_resnets),
        "decoder_out_channels": config.in_channels,
        "decoder_spatial_up_sample": [*reversed(config.spatial_down[:-1]), False],
        "decoder_temporal_up_sample": [*reversed(config.temporal_down[:-1]), False],
        "decoder_up_block_types": ["UpDecoderBlockCausal3D"] * levels,
        "downsample_scale": config.compression.space,
        "encoder_block_out_channels": list(config.encoder_widths),
        "encoder_double_z": True,
        "encoder_down_block_types": ["DownEncoderBlockCausal3D"] * levels,
        "encoder_in_channels": config.in_channels,
        "encoder_layers_per_block": list(config.encoder_resnets),
        "encoder_out_channels": config.latent_channels,
        "encoder_spatial_down_sample": list(config.spatial_down),
        "encoder_temporal_down_sample": list(config.temporal_down),
        "interpolate": False,
        "sample_size": 256,
        "scaling_factor": 0.13025,
    }


def _matrix(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    shape = shapes.get(name, ())
    if len(shape) != 2 or not all(shape):
        raise UserError(f"{name} is {shape or 'missing'}; expected a matrix. Download the weights again.")
    return shape[0], shape[1]


def _count_blocks(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    numbers = [name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)]
    # Numbers that leave gaps are told by the tensors missing in them; a table as long as any number is not needed.
    return min(len(shapes), 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1))


def _are_levels(values: Any, released: Sequence[Any]) -> bool:
    """Whether a setting has one value per level, of the kind that the released one has."""
    return (
        isinstance(values, Sequence)
        and len(values) == len(released)
        and all(type(value) is type(known) for value, known in zip(values, released, strict=True))
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, int) and value > 0 for value in values)
