"""`m4v train RECIPE --dry-run`: what a run would take, before any data is touched or anything is written."""

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from m4v.analysis.flops import call_flops
from m4v.analysis.parameters import denoiser_parameters
from m4v.analysis.subject_folders import subject_of_folder
from m4v.analysis.subjects import Subject
from m4v.analysis.text_memory import meta_text_encoder
from m4v.analysis.tokens import unit_layout
from m4v.analysis.training_cost import (
    BACKWARD_FACTOR,
    TrainingMemory,
    autoencoder_cost,
    pyramid_saved_bytes,
    state_bytes,
    wan_saved_bytes,
    with_checkpoints,
)
from m4v.analysis.wan_flops import wan_call_flops, wan_grid
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.parameters import count_parameters
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.training.config import (
    FlowStageConfig,
    FullSequenceStageConfig,
    RunConfig,
    StageConfig,
    StageName,
    VaeStageConfig,
)
from m4v.training.row_share import RowShare

# What one H100 or H200 multiplies in bfloat16 at its best, and how much of it training reaches.
_GPU_FLOPS = 989e12
_GPU_UTILISATION = 0.30
_CPU_UTILISATION = 0.25
_CLIP_PARAMETERS = 123_060_480
_TOYBOX_VOCABULARY = 256
_PRETRAINED_VOCABULARY = {"pyramid": 32_128, "wan": 256_384}
# Larger text encoders are pretrained ones.
_LARGEST_OWN_TEXT = 1024


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes.

    Attributes:
        name: Stage.
        steps: Optimiser steps.
        batch_size: Items, or clips, per step over all devices.
        lr: Peak learning rate.
        trained_parameters: Changed by the stage.
        frozen_parameters: Only read.
        tokens_per_step: Tokens that the denoiser sees, text included: "image" and "video" steps, "mean" of the mixture.
            Empty for the autoencoder.
        flops_per_step: Operations of forward and backward passes; samples, checkpoints and encoding data not counted.
        memory_bytes: "states", "frozen", "activations", "peak" on one device.
        hours: At the stated rate.
    """

    name: str
    steps: int
    batch_size: int
    lr: float
    trained_parameters: int
    frozen_parameters: int
    tokens_per_step: dict[str, float]
    flops_per_step: float
    memory_bytes: dict[str, int]
    hours: float


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run takes.

    Attributes:
        recipe: Its name.
        device: Kind of device.
        num_devices: Devices that share every step.
        flops_per_second: Rate of all of them that hours are reckoned with.
        rate_source: Where that rate comes from.
        stages: In order.
        sources: Names, places and shares of the data.
        config: Every setting.
    """

    recipe: str
    device: str
    num_devices: int
    flops_per_second: float
    rate_source: str
    stages: tuple[StagePlan, ...]
    sources: tuple[dict[str, Any], ...]
    config: dict[str, Any]

    @property
    def hours(self) -> float:
        """All stages."""
        return sum(stage.hours for stage in self.stages)


@dataclass(frozen=True)
class _Work:
    """Cost of a stage's step, before memory and time are shared out."""

    tokens: dict[str, float]
    flops: float
    saved_bytes: int
    num_blocks: int


def plan_training(config: RunConfig, *, device_type: str, num_devices: int, init_from: Path | None) -> TrainingPlan:
    """Reckon what a run takes.

    Args:
        config: The recipe, with the user's changes.
        device_type: `cpu` or a kind of accelerator, which need not be here.
        num_devices: Devices that share every step.
        init_from: Model folder whose configurations count instead of the recipe's; its weights are not read.

    Raises:
        UserError: if sizes are left to a model that is not named, or do not fit the networks.
    """
    config = _resolved(config, init_from)
    rate, rate_source = _rate(device_type, num_devices)
    stages = tuple(
        _plan_stage(config, name, steps, device_type, num_devices, rate) for name, steps in config.stages(device_type)
    )
    total = sum(source.weight for source in config.data.all_sources)
    sources = tuple(
        {
            "name": source.name,
            "kind": source.kind,
            "path": source.path,
            "share": source.weight / total,
            "synthetic": source.is_synthetic,
        }
        for source in config.data.all_sources
    )
    return TrainingPlan(
        recipe=config.name,
        device=device_type,
        num_devices=num_devices,
        flops_per_second=rate,
        rate_source=rate_source,
        stages=stages,
        sources=sources,
        config=to_plain(config),
    )


def plan_report(plan: TrainingPlan) -> dict[str, Any]:
    """A plan as JSON types."""
    return {**asdict(plan), "hours": plan.hours}


def _resolved(config: RunConfig, folder: Path | None) -> RunConfig:
    """Take shapes and sizes from the configurations of the initial model."""
    subject = _subject(folder)
    if subject is not None:
        models = config.models
        if isinstance(subject.denoiser, WanConfig) == (models.base == "wan") and "transformer" in config.init_parts:
            if isinstance(subject.denoiser, WanConfig):
                models = replace(models, wan=_with_wan_denoiser(config, subject.denoiser))
            elif isinstance(subject.denoiser, DenoiserConfig):
                # A second text encoder may come with it, so widths are checked when the networks are there.
                models = replace(models, **_pyramid_changes(subject))
        defaults = subject.defaults
        data = replace(
            config.data,
            num_frames=config.data.num_frames or defaults.num_frames,
            height=config.data.height or defaults.height,
            width=config.data.width or defaults.width,
            fps=config.data.fps or defaults.fps,
        )
        config = replace(config, models=models, data=data)
    if 0 in (config.data.num_frames, config.data.height, config.data.width):
        raise UserError(
            f"Recipe {config.name} takes the size of its videos from the initial model; name it with --init-from, such "
            "as --init-from toybox-xs."
        )
    return config


def _subject(folder: Path | None) -> Subject | None:
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    return subject_of_folder(folder)


def _with_wan_denoiser(config: RunConfig, denoiser: WanConfig) -> Any:
    wan = config.models.wan
    return replace(
        wan,
        denoiser=denoiser,
        vae=replace(wan.vae, z_dim=denoiser.in_channels),
        text=replace(wan.text, model_dim=denoiser.text_dim),
    )


def _pyramid_changes(subject: Subject) -> dict[str, Any]:
    specs = subject.text_encoders
    main = specs.get("text_encoder_2") or specs["text_encoder"]
    fields = {"model_dim": "d_model", "num_layers": "num_layers", "num_heads": "num_heads", "head_dim": "d_kv"}
    known = {ours: main.config[theirs] for ours, theirs in fields.items() if theirs in main.config}
    if "d_ff" in main.config:
        known["feed_forward_dim"] = main.config["d_ff"]
    has_two = "text_encoder_2" in specs
    assert isinstance(subject.denoiser, DenoiserConfig)
    return {
        "denoiser": subject.denoiser,
        "vae": subject.vae,
        "text": TextEncoderConfig(**known, max_length=subject.defaults.max_text_length),
        "pooled_text_dim": subject.denoiser.pooled_text_dim if has_two else 0,
    }


def _plan_stage(
    config: RunConfig, name: StageName, steps: int, device_type: str, num_devices: int, rate: float
) -> StagePlan:
    stage = config.stage(name)
    batch_size = stage.batch_size.on(device_type)
    parameters = _parameters(config)
    trained_names = _trained_names(config, name, stage)
    trained = sum(count for part, count in parameters.items() if part in trained_names)
    frozen = {part: count for part, count in parameters.items() if part not in trained_names}
    sharing = RowShare(world=num_devices, accumulate=config.parallel.accumulate)
    if isinstance(stage, VaeStageConfig):
        work = _vae_work(config, batch_size, sharing)
    elif isinstance(stage, FullSequenceStageConfig):
        work = _clips_work(config, stage, batch_size, sharing)
    else:
        work = _flow_work(config, stage, batch_size, sharing)
    share = config.parallel.checkpoint_share if name != "vae" else 0.0
    shards = num_devices if config.parallel.shard else 1
    memory = TrainingMemory(
        states=state_bytes(trained, shards),
        # Pretrained text encoders are read in bfloat16 on accelerators, autoencoders in float32.
        frozen=sum(count * (2 if part != "vae" and device_type != "cpu" else 4) for part, count in frozen.items()),
        activations=with_checkpoints(work.saved_bytes, share, work.num_blocks),
    )
    flops = work.flops * (1 + BACKWARD_FACTOR + share)
    return StagePlan(
        name=name,
        steps=steps,
        batch_size=batch_size,
        lr=stage.optim.lr,
        trained_parameters=trained,
        frozen_parameters=sum(frozen.values()),
        tokens_per_step=work.tokens,
        flops_per_step=flops,
        memory_bytes={**asdict(memory), "peak": memory.peak},
        hours=flops * steps / rate / 3600,
    )


def _trained_names(config: RunConfig, name: StageName, stage: StageConfig) -> set[str]:
    if name == "vae":
        return {"vae"}
    has_own_text = config.models.base == "pyramid" and config.models.pooled_text_dim > 0
    trains_text = not isinstance(stage, VaeStageConfig) and stage.train_text and not has_own_text
    return {"transformer", "text_encoder"} if trains_text else {"transformer"}


def _parameters(config: RunConfig) -> dict[str, int]:
    models = config.models
    is_wan = models.base == "wan"
    text = models.wan.text if is_wan else models.text
    parts = {
        "transformer": denoiser_parameters(models.wan.denoiser if is_wan else models.denoiser)["total"],
        "text_encoder": _text_parameters(text, models.base),
        "vae": _autoencoder(config)[0],
    }
    return parts | ({"pooled_encoder": _CLIP_PARAMETERS} if models.pooled_text_dim and not is_wan else {})


def _text_parameters(text: TextEncoderConfig, base: str) -> int:
    from m4v.analysis.subjects import TextEncoderSpec

    vocabulary = _PRETRAINED_VOCABULARY[base] if text.model_dim > _LARGEST_OWN_TEXT else _TOYBOX_VOCABULARY
    spec = TextEncoderSpec(
        class_name="UMT5EncoderModel" if base == "wan" else "T5EncoderModel",
        config={
            "vocab_size": vocabulary,
            "d_model": text.model_dim,
            "d_kv": text.head_dim,
            "d_ff": text.feed_forward_dim,
            "num_layers": text.num_layers,
            "num_heads": text.num_heads,
            "feed_forward_proj": "gated-gelu",
        },
        num_tokens=text.max_length,
    )
    return count_parameters(meta_text_encoder(spec, torch.bfloat16))


@lru_cache(maxsize=4)
def _autoencoder_cost(config: Any, num_frames: int, height: int, width: int) -> tuple[int, float, int]:
    return autoencoder_cost(lambda: CausalVideoVAE.build(config), num_frames, height, width)


def _autoencoder(config: RunConfig) -> tuple[int, float, int]:
    """Parameters, operations and saved bytes; for a short clip where the autoencoder is not trained."""
    data, models = config.data, config.models
    is_trained = any(name == "vae" for name, _ in config.stages("cpu"))
    space = 64 if not is_trained else data.height
    frames = data.num_frames if is_trained else models.time_compression + 1
    if models.base == "pyramid":
        return _autoencoder_cost(models.vae, frames, space, data.width if is_trained else space)
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    from m4v.models.vae.wan_autoencoder import WanAutoencoder

    vae = models.wan.vae
    return autoencoder_cost(
        lambda: WanAutoencoder(
            AutoencoderKLWan(
                base_dim=vae.base_dim,
                z_dim=vae.z_dim,
                dim_mult=list(vae.dim_mult),
                num_res_blocks=vae.num_res_blocks,
                latents_mean=[0.0] * vae.z_dim,
                latents_std=[1.0] * vae.z_dim,
            )
        ),
        frames,
        space,
        data.width if is_trained else space,
    )


def _latent(config: RunConfig) -> LatentShape:
    data, models = config.data, config.models
    compression = models.vae.compression if models.base == "pyramid" else Compression(time=4, space=8)
    return compression.latent_shape(VideoShape(num_frames=data.num_frames, height=data.height, width=data.width))


def _vae_work(config: RunConfig, batch_size: int, sharing: RowShare) -> _Work:
    _, flops, saved = _autoencoder(config)
    return _Work({}, flops * batch_size, saved * _rows(sharing, batch_size), 1)


def _flow_work(config: RunConfig, stage: FlowStageConfig, batch_size: int, sharing: RowShare) -> _Work:
    """Mean over units and columns; the longest sequence counts for memory."""
    denoiser, latent, length = config.models.denoiser, _latent(config), config.models.text_length
    levels = [level for level, count in enumerate(stage.columns) for _ in range(count)]
    if len(stage.columns) != denoiser.num_levels:
        raise UserError(f"columns is {stage.columns}; expected {denoiser.num_levels} counts, one per pyramid level.")
    rows = batch_size // len(levels)
    units = {"image": range(1), "video": range(latent.num_units)}
    tokens: dict[str, float] = {}
    flops: dict[str, float] = {}
    for kind, of_kind in units.items():
        layouts = [
            [unit_layout(denoiser, latent, unit, level, length, stage.history_window) for unit in of_kind]
            for level in levels
        ]
        flat = [layout for row in layouts for layout in row]
        count = len(of_kind)
        tokens[kind] = rows / count * sum(layout.num_text_tokens + layout.num_video_tokens for layout in flat)
        flops[kind] = rows / count * sum(call_flops(denoiser, layout).total for layout in flat)
    share = _image_share(stage)
    text = 2.0 * _text_parameters(config.models.text, "pyramid") * length * batch_size
    last = latent.num_units - 1 if share < 1 else 0
    longest = unit_layout(denoiser, latent, last, max(levels), length, stage.history_window)
    return _Work(
        {**tokens, "mean": _mean(tokens, share)},
        _mean(flops, share) + text,
        pyramid_saved_bytes(denoiser, longest, _rows(sharing, batch_size, len(levels))),
        denoiser.num_dual_layers + denoiser.num_single_layers,
    )


def _clips_work(config: RunConfig, stage: FullSequenceStageConfig, batch_size: int, sharing: RowShare) -> _Work:
    denoiser, latent, length = config.models.wan.denoiser, _latent(config), config.models.wan.text_length
    grids = {
        "image": wan_grid(denoiser, replace(latent, num_units=1)),
        "video": wan_grid(denoiser, latent),
    }
    tokens = {kind: float(batch_size * (math.prod(grid) + length)) for kind, grid in grids.items()}
    flops = {kind: batch_size * wan_call_flops(denoiser, grid, length).total for kind, grid in grids.items()}
    share = _image_share(stage)
    text = 2.0 * _text_parameters(config.models.wan.text, "wan") * length * batch_size
    longest = grids["image" if share == 1 else "video"]
    return _Work(
        {**tokens, "mean": _mean(tokens, share)},
        _mean(flops, share) + text,
        wan_saved_bytes(denoiser, longest, length, _rows(sharing, batch_size)),
        denoiser.num_layers,
    )


def _image_share(stage: FlowStageConfig | FullSequenceStageConfig) -> float:
    return stage.images_per_window / (stage.images_per_window + stage.videos_per_window)


def _mean(values: dict[str, float], image_share: float) -> float:
    return image_share * values["image"] + (1 - image_share) * values["video"]


def _rows(sharing: RowShare, batch_size: int, num_columns: int = 1) -> int:
    """Rows that one device computes at once."""
    piece = sharing.pieces(batch_size, num_columns)[0]
    return piece.stop - piece.start


def _rate(device_type: str, num_devices: int) -> tuple[float, str]:
    """Operations per second that training is reckoned with, and why."""
    if device_type != "cpu":
        rate = num_devices * _GPU_FLOPS * _GPU_UTILISATION
        return rate, f"{_GPU_UTILISATION:.0%} of {_GPU_FLOPS / 1e12:.0f} TFLOP/s (H100 or H200, bf16) each"
    import time

    matrix = torch.ones(1024, 1024)
    matrix @ matrix
    start = time.perf_counter()
    repeats = 8
    for _ in range(repeats):
        matrix @ matrix
    measured = repeats * 2 * 1024**3 / (time.perf_counter() - start)
    source = f"{_CPU_UTILISATION:.0%} of {measured / 1e9:.0f} GFLOP/s, measured here on a matrix product"
    return num_devices * measured * _CPU_UTILISATION, source
