"""Training results as model folders, with the facts of how they came to be."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m4v.checkpoints.export import export_pipeline, in_dtype
from m4v.core.config_io import to_plain
from m4v.core.files import atomic_path
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.models.parameters import count_parameters
from m4v.models.text.vocabulary import merge_new_words
from m4v.pipelines.config import GenerationDefaults
from m4v.training.base_export import export_on_base
from m4v.training.config import RunConfig
from m4v.training.lora import merge_adapters
from m4v.training.networks import Networks
from m4v.training.starting_networks import AnyNetworks
from m4v.training.wan_networks import WanNetworks


def generation_defaults(config: RunConfig) -> GenerationDefaults:
    """Recommended generation settings of the model a run makes."""
    levels = config.models.flow.num_levels
    return GenerationDefaults(
        height=config.data.height,
        width=config.data.width,
        num_frames=config.data.num_frames,
        fps=config.data.fps,
        first_steps=(config.samples.first_steps,) * levels,
        later_steps=(config.samples.later_steps,) * levels,
        first_guidance=config.samples.first_guidance,
        later_guidance=config.samples.later_guidance,
        max_text_length=config.models.text.max_length,
    )


def training_facts(
    config: RunConfig, networks: AnyNetworks, stages: Mapping[str, Mapping[str, Any]], device: torch.device
) -> dict[str, Any]:
    """What a model card should say about a run.

    Args:
        config: The run's settings.
        networks: Counted.
        stages: Steps, items, seconds and last metrics of every stage so far, by name.
        device: What it was trained on.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "recipe": config.name,
        "weights": "exponential moving average",
        "stages": {stage: dict(facts) for stage, facts in stages.items()},
        "device": name,
        "torch": torch.__version__,
        "commit": git_commit(),
        "parameters": {part: count_parameters(module) for part, module in networks.modules.items()},
        "config": to_plain(config),
    }


def git_commit() -> str | None:
    """Commit of the source tree this package runs from, or None outside a repository."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def export_vae(target: Path, networks: AnyNetworks) -> Path:
    """Write a folder that holds only the autoencoder, in bf16; Wan's stays in float32."""
    with atomic_path(target) as temporary:
        temporary.mkdir()
        vae: Any = networks.vae.vae if isinstance(networks, WanNetworks) else in_dtype(networks.vae, torch.bfloat16)
        vae.save_pretrained(temporary / "vae")
    return target


def export_model(target: Path, config: RunConfig, networks: Networks, facts: Mapping[str, Any]) -> Path:
    """Write a whole model folder, in bf16; the networks must hold the averaged weights.

    Networks with adapters are written with the adapters added in. Text encoders and autoencoder of a large base are
    linked from its folder.
    """
    transformer = merge_adapters(networks.transformer) if networks.trainable else networks.transformer
    if networks.base is not None:
        return export_on_base(
            target, config, networks.base, {"transformer": in_dtype(transformer, torch.bfloat16)}, facts
        )
    return export_pipeline(
        target,
        transformer=transformer,
        vae=networks.vae,
        text_encoder=merge_new_words(networks.text_encoder),
        tokenizer=networks.tokenizer,
        scheduler=PyramidFlowScheduler.from_flow_config(config.models.flow),
        defaults=generation_defaults(config),
        training_facts=facts,
        model_name=config.name,
        dtype=torch.bfloat16,
    )
