"""Exports of models whose frozen parts lie in another folder: these are linked, only what was trained is written."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from m4v.checkpoints.converted_folder import link_tree
from m4v.checkpoints.export import in_dtype, tidy_model_folder
from m4v.checkpoints.model_card import write_model_card
from m4v.checkpoints.model_folder import M4V_COMPONENTS, MODEL_INDEX, WAN_COMPONENTS, read_model_index
from m4v.checkpoints.wan_folder import OUR_PIPELINE, with_our_transformer
from m4v.core.config_io import from_plain, to_plain
from m4v.core.files import atomic_path
from m4v.flow.library_schedulers import make_library_scheduler
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.wan_config import WanGenerationDefaults
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from m4v.training.config import RunConfig
from m4v.training.lora import merge_adapters
from m4v.training.networks import pipeline_class
from m4v.training.wan_networks import WanNetworks


def wan_defaults(config: RunConfig) -> WanGenerationDefaults:
    """Recommended generation settings of a Wan model built by a run."""
    data, samples = config.data, config.samples
    return WanGenerationDefaults(
        height=data.height,
        width=data.width,
        num_frames=data.num_frames,
        fps=data.fps,
        first_steps=(samples.first_steps,),
        later_steps=(samples.first_steps,),
        first_guidance=samples.first_guidance,
        later_guidance=samples.first_guidance,
        max_text_length=config.models.wan.text_length,
        trained_sizes=((data.height, data.width),),
        flow_shifts=((data.height, config.clips.flow.shift),),
    )


def with_trained_size(defaults: GenerationDefaults, config: RunConfig) -> GenerationDefaults:
    """A base's own recommendations, at the size that a run trained."""
    data = config.data
    size = (data.height, data.width)
    sizes = defaults.trained_sizes if size in defaults.trained_sizes else (*defaults.trained_sizes, size)
    return replace(
        defaults, height=size[0], width=size[1], num_frames=data.num_frames, fps=data.fps, trained_sizes=sizes
    )


def export_wan(target: Path, config: RunConfig, networks: WanNetworks, facts: Mapping[str, Any]) -> Path:
    """Write a folder that `WanM4VPipeline` opens; the networks must hold the averaged weights.

    The denoiser is written in bf16, with adapters added in; the autoencoder stays in float32.
    """
    transformer = in_dtype(
        merge_adapters(networks.transformer) if networks.trainable else networks.transformer, torch.bfloat16
    )
    if networks.base is not None:
        trained: dict[str, Any] = {"transformer": transformer}
        if config.clips.train_text:
            trained["text_encoder"] = in_dtype(networks.text_encoder, torch.bfloat16)
        return export_on_base(target, config, networks.base, trained, facts)
    defaults = wan_defaults(config)
    pipeline = WanM4VPipeline(
        tokenizer=networks.tokenizer,
        text_encoder=in_dtype(networks.text_encoder, torch.bfloat16),
        vae=networks.vae.vae,
        scheduler=make_library_scheduler(defaults.scheduler, defaults.flow_shift(defaults.height, defaults.width)),
        transformer=transformer,
        defaults=defaults,
    )
    pipeline.save_pretrained(target, training_facts=facts)
    return target


def export_on_base(
    target: Path, config: RunConfig, base: Path, trained: Mapping[str, nn.Module], facts: Mapping[str, Any]
) -> Path:
    """Write a model folder with some parts new and the others those of a base.

    Args:
        target: Folder to make; an existing one is replaced once the new one is complete.
        config: The run's settings, for name and size.
        base: Folder that gives what is not written; its weights are linked where the file system allows it.
        trained: What is written, by name of the part.
        facts: JSON values for the model card.
    """
    index = with_our_transformer(read_model_index(base))
    is_wan = pipeline_class(base) != "M4VPipeline"
    kind = WanGenerationDefaults if is_wan else GenerationDefaults
    defaults = to_plain(with_trained_size(from_plain(kind, index.get("defaults") or {}, "defaults."), config))
    index["defaults"] = defaults
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for name in WAN_COMPONENTS if is_wan else M4V_COMPONENTS:
            if name in trained:
                part: Any = trained[name]
                part.save_pretrained(temporary / name)
            elif (base / name).is_dir():
                link_tree(base / name, temporary / name)
        (temporary / MODEL_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        pipeline = OUR_PIPELINE if is_wan else "M4VPipeline"
        write_model_card(temporary, config.name, defaults, facts, pipeline=pipeline)
        tidy_model_folder(temporary)
    return target
