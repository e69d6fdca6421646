"""What a model costs at a size, before anything is loaded: parameters, tokens, operations, memory."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from m4v.analysis.decoding_memory import Decoding, causal_vae, causal_vae_decoding, wan_vae, wan_vae_decoding
from m4v.analysis.denoising_memory import pyramid_activations, wan_activations
from m4v.analysis.flops import CallFlops, call_flops, video_flops
from m4v.analysis.parameters import denoiser_parameters, meta_denoiser
from m4v.analysis.part_memory import PartMemory, cast_weights, part_memory, peaks
from m4v.analysis.subjects import Subject
from m4v.analysis.text_memory import meta_text_encoder, text_activations
from m4v.analysis.tokens import tokens_by_unit, unit_layout
from m4v.analysis.wan_flops import wan_call_flops, wan_grid
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.vae.config import CausalVideoVAEConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Description:
    """Costs of a model at one video size; whole videos with its own steps and guidance.

    Attributes:
        parameters: Of the denoiser: "total" and its parts.
        tokens: Tokens of a call by unit and level, coarsest first; on the pyramid base text included, on Wan's (one
            unit, one level) the video tokens, as cross-attention keeps text apart.
        flops: Operations of one call for one sample, by unit and level.
        video_flops: Operations of all denoiser calls of one video, and the part of the mixers in them.
        memory_bytes: "weights" and "activations" of the denoiser; "parts": the same and more for every network;
            "peak": most on the device at once, by offload level, untiled and tiled.
    """

    parameters: dict[str, int]
    tokens: list[list[int]]
    flops: list[list[float]]
    video_flops: dict[str, float]
    memory_bytes: dict[str, Any]


def describe(subject: Subject, latent: LatentShape, *, dtype: str) -> Description:
    """Describe a pipeline for a latent size.

    Args:
        dtype: Precision of denoiser and text encoders, and of the pyramid base's autoencoder: "float32", "bfloat16" or
            "float16". Wan's autoencoder runs in float32.

    Raises:
        UserError: if the size does not fit the patches.
    """
    config = subject.denoiser
    if isinstance(config, WanConfig):
        tokens, flops, video, activations = _wan_costs(config, subject, latent, DTYPES[dtype])
    else:
        tokens, flops, video, activations = _pyramid_costs(config, subject, latent, DTYPES[dtype])
    parts = _parts(subject, latent, DTYPES[dtype], activations)
    return Description(
        parameters=denoiser_parameters(config),
        tokens=tokens,
        flops=flops,
        video_flops={"total": video.total, "mixers": video.mixers},
        memory_bytes={
            "weights": parts["transformer"].weights,
            "activations": parts["transformer"].activations,
            "parts": {name: asdict(part) for name, part in parts.items()},
            "peak": peaks(parts),
        },
    )


_Costs = tuple[list[list[int]], list[list[float]], CallFlops, int]


def _pyramid_costs(config: DenoiserConfig, subject: Subject, latent: LatentShape, dtype: torch.dtype) -> _Costs:
    defaults, rows = subject.defaults, subject.rows_per_step
    length = defaults.max_text_length
    layouts = [
        [unit_layout(config, latent, unit, level, length) for level in range(config.num_levels)]
        for unit in range(latent.num_units)
    ]
    video = video_flops(
        config,
        latent,
        num_text_tokens=length,
        first_steps=defaults.first_steps,
        later_steps=defaults.later_steps,
        rows_per_call=rows,
    )
    return (
        tokens_by_unit(config, latent, length),
        [[call_flops(config, layout).total for layout in row] for row in layouts],
        video,
        pyramid_activations(config, layouts[-1][-1], batch_size=rows, dtype=dtype),
    )


def _wan_costs(config: WanConfig, subject: Subject, latent: LatentShape, dtype: torch.dtype) -> _Costs:
    defaults, grid = subject.defaults, wan_grid(config, latent)
    call = wan_call_flops(config, grid, defaults.max_text_length)
    activations = wan_activations(config, grid, num_text_tokens=defaults.max_text_length, dtype=dtype)
    video = call * (subject.rows_per_step * sum(defaults.first_steps))
    return [[grid[0] * grid[1] * grid[2]]], [[call.total]], video, activations


def _parts(subject: Subject, latent: LatentShape, dtype: torch.dtype, activations: int) -> dict[str, PartMemory]:
    denoiser = meta_denoiser(subject.denoiser)
    cast_weights(denoiser, dtype)
    parts = {"transformer": part_memory(denoiser, activations)}
    decoding: Decoding
    vae: Any
    if isinstance(subject.vae, CausalVideoVAEConfig):
        vae = causal_vae(subject.vae, dtype)
        decoding = causal_vae_decoding(vae, latent)
    else:
        vae = wan_vae(subject.vae.config)
        decoding = wan_vae_decoding(vae, latent)
    parts["vae"] = part_memory(vae, decoding.untiled, decoding.tiled)
    # The pyramid pipeline encodes prompt and negative prompt together, Wan's one after the other.
    prompts = 1 if isinstance(subject.denoiser, WanConfig) else subject.rows_per_step
    for name, spec in subject.text_encoders.items():
        encoder = meta_text_encoder(spec, dtype)
        parts[name] = part_memory(encoder, text_activations(encoder, spec.num_tokens, prompts))
    return parts
