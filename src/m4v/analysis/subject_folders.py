"""A model folder as something to describe: its configurations are read, its weights are only checked to be there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4v.analysis.subjects import Subject, TextEncoderSpec, WanVaeSpec
from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.model_folder import check_model_folder, read_model_index
from m4v.checkpoints.wan_folder import check_wan_folder
from m4v.core.config_io import from_plain
from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.wan_config import wan_config
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.wan_config import WanGenerationDefaults, published_defaults

_CLIP_TOKENS = 77


def subject_of_folder(folder: Path) -> Subject:
    """Read what a model folder of either base, or a stock Wan2.1 folder, would be opened as.

    Raises:
        UserError: if it is incomplete, damaged, or of another kind.
    """
    index = read_model_index(folder)
    if str(index.get("_class_name")).startswith("Wan"):
        check_wan_folder(folder)
        return _wan_subject(folder, index)
    check_model_folder(folder)
    defaults = from_plain(GenerationDefaults, index["defaults"], "defaults.")
    return Subject(
        denoiser=denoiser_config(_config(folder / "transformer")),
        vae=from_plain(CausalVideoVAEConfig, _config(folder / "vae")),
        text_encoders=_text_encoders(folder, index, defaults),
        defaults=defaults,
    )


def _wan_subject(folder: Path, index: Mapping[str, Any]) -> Subject:
    transformer = _config(folder / "transformer")
    config = wan_config(transformer)
    if index.get("defaults"):
        defaults = from_plain(WanGenerationDefaults, index["defaults"], "defaults.")
    else:
        defaults = published_defaults(
            {"num_attention_heads": config.num_attention_heads, "attention_head_dim": config.attention_head_dim}
        )
    return Subject(
        denoiser=config,
        vae=WanVaeSpec(config=_config(folder / "vae")),
        text_encoders=_text_encoders(folder, index, defaults),
        defaults=defaults,
    )


def _text_encoders(folder: Path, index: Mapping[str, Any], defaults: GenerationDefaults) -> dict[str, TextEncoderSpec]:
    specs = {}
    for name in ("text_encoder", "text_encoder_2"):
        _, class_name = index.get(name) or (None, None)
        if class_name is None:
            continue
        # CLIP gives the pooled vector alone, from as many tokens as it was made for.
        length = _CLIP_TOKENS if class_name == "CLIPTextModel" else defaults.max_text_length
        specs[name] = TextEncoderSpec(class_name=class_name, config=_config(folder / name), num_tokens=length)
    return specs


def _config(part: Path) -> dict[str, Any]:
    content = read_json(part / "config.json")
    return {key: value for key, value in content.items() if not key.startswith("_") and value is not None}
