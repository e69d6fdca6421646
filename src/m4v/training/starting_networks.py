"""Which networks a run starts with: built from its settings, or taken from a model folder of either base."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from m4v.checkpoints.model_folder import MODEL_INDEX, read_model_index
from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.wan_config import WanGenerationDefaults, published_defaults
from m4v.training.config import DataConfig, ModelsConfig, RunConfig
from m4v.training.networks import Networks, build_networks, describe_models, is_large_base, load_networks
from m4v.training.wan_networks import WanNetworks, build_wan_networks, describe_wan_models, load_wan_networks

AnyNetworks = Networks | WanNetworks


@dataclass(frozen=True)
class Start:
    """Networks, and settings that say what they are.

    Attributes:
        networks: On the CPU.
        config: The run's settings with the networks' shapes and, where it left them open, the sizes of their videos.
    """

    networks: AnyNetworks
    config: RunConfig


def build_start(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Start:
    """Build untrained networks from a run's settings."""
    if config.models.base == "wan":
        return Start(build_wan_networks(config.models.wan, tokenizer, config.seed), config)
    return Start(build_networks(config.models, tokenizer, config.seed), config)


def load_start(config: RunConfig, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Start:
    """Take networks from a model folder; parts it lacks are built from the run's settings.

    Raises:
        UserError: if the folder is damaged, incomplete or of another base than the recipe.
    """
    networks: AnyNetworks
    if config.models.base == "wan":
        networks = load_wan_networks(folder, trains_text=config.clips.train_text)
        if "transformer" not in config.init_parts:
            built = build_wan_networks(config.models.wan, tokenizer, config.seed)
            networks = replace(networks, transformer=built.transformer)
    else:
        networks = _load_pyramid(config, folder, tokenizer)
    models = describe_networks(config.models, networks)
    defaults = _defaults(folder, networks)
    if defaults is None:
        return Start(networks, replace(config, models=models))
    models = _with_text_length(models, defaults.max_text_length)
    return Start(networks, replace(config, models=models, data=_with_defaults(config.data, defaults)))


def _load_pyramid(config: RunConfig, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Networks:
    """Load a pyramid base; large parts that the folder has are not made first, only to be thrown away."""
    parts = config.init_parts
    has_rest = is_large_base(folder) and (folder / "vae").is_dir() and {"vae", "text"} <= set(parts)
    with torch.device("meta" if has_rest else "cpu"):
        fresh = build_networks(config.models, tokenizer, config.seed)
    networks = load_networks(folder, fresh, parts)
    if not next(networks.transformer.parameters()).is_meta:
        return networks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(config.seed, "initial weights"))
        return replace(networks, transformer=M4VTransformer3DModel(**to_plain(config.models.denoiser)))


def describe_networks(models: ModelsConfig, networks: AnyNetworks) -> ModelsConfig:
    """Settings that build the given networks."""
    if isinstance(networks, WanNetworks):
        return replace(models, wan=describe_wan_models(models.wan, networks))
    return describe_models(models, networks)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer kept in a run folder or a model folder."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def require_base_kind(config: RunConfig, device_type: str) -> None:
    """Refuse a recipe whose stages train another base than its networks are of.

    Raises:
        UserError: naming the stage.
    """
    for name, _ in config.stages(device_type):
        if name != "vae" and (name == "clips") != (config.models.base == "wan"):
            raise UserError(
                f"Stage {name} cannot train the {config.models.base} base; the wan base is trained by the stage clips, "
                "the pyramid base by all others. Set models.base, or the steps of another stage."
            )


def require_whole_sequences(config: RunConfig, device_type: str) -> None:
    """Refuse to share sequences between ranks where something needs them whole.

    Raises:
        UserError: naming the stage or the setting.
    """
    context = config.parallel.context
    if context == 1:
        return
    for name, _ in config.stages(device_type):
        if name in ("match", "clips"):
            raise UserError(
                f"Stage {name} needs whole sequences, but parallel.context is {context}; set it to 1 for this stage. "
                "Less memory: parallel.checkpoint_share, parallel.accumulate."
            )
    if config.compile_blocks:
        raise UserError(f"compile_blocks cannot be combined with parallel.context {context}; leave one of them out.")


def _defaults(folder: Path, networks: AnyNetworks) -> GenerationDefaults | None:
    if not (folder / MODEL_INDEX).is_file():
        return None
    stored: Mapping[str, Any] | None = read_model_index(folder).get("defaults")
    if isinstance(networks, WanNetworks):
        if stored is None:
            return published_defaults(networks.transformer.config)
        return from_plain(WanGenerationDefaults, stored, "defaults.")
    return None if stored is None else from_plain(GenerationDefaults, stored, "defaults.")


def _with_text_length(models: ModelsConfig, length: int) -> ModelsConfig:
    if models.base == "pyramid":
        return replace(models, text=replace(models.text, max_length=length))
    text = replace(models.wan.text, max_length=length)
    return replace(models, wan=replace(models.wan, text=text, text_length=length))


def _with_defaults(data: DataConfig, defaults: GenerationDefaults) -> DataConfig:
    return replace(
        data,
        num_frames=data.num_frames or defaults.num_frames,
        height=data.height or defaults.height,
        width=data.width or defaults.width,
        fps=data.fps or defaults.fps,
    )
