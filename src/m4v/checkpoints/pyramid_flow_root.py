"""What lies where in a Pyramid-Flow checkpoint: variants, autoencoder, text encoders (torch-free)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError

VARIANTS = ("768p", "384p", "image")
"""Released denoisers, the one chosen first in front."""

PART_FOLDERS = {
    "vae": "causal_video_vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "tokenizer": "tokenizer",
    "tokenizer_2": "tokenizer_2",
}
"""Part of a pipeline -> its folder in a checkpoint root."""

_SIZES: dict[str, dict[str, Any]] = {
    "768p": {"height": 768, "width": 1280, "num_frames": 121, "longest_frames": 241, "trained_sizes": [[768, 1280]]},
    "384p": {"height": 384, "width": 640, "num_frames": 121, "longest_frames": 121, "trained_sizes": [[384, 640]]},
    "image": {
        "height": 1024,
        "width": 1024,
        "num_frames": 1,
        "longest_frames": 1,
        "trained_sizes": [[1024, 1024], [768, 1280], [1280, 768]],
    },
}


def transformer_folder(variant: str) -> str:
    """Folder of a variant's denoiser in a checkpoint root."""
    return f"diffusion_transformer_{variant}"


@dataclass(frozen=True)
class PyramidFlowCheckpoint:
    """A checkpoint as found on disk.

    Attributes:
        source: The place that was named.
        variant: The denoiser to read.
        transformer: Its folder or file.
        transformer_config: Its `config.json`, if there is one.
        parts: Other parts of a pipeline that are there, by their name in our folders.
        notes: What was chosen or is missing, in sentences.
    """

    source: Path
    variant: str
    transformer: Path
    transformer_config: Path | None
    parts: Mapping[str, Path]
    notes: tuple[str, ...]


def find_checkpoint(source: Path, variant: str | None = None) -> PyramidFlowCheckpoint:
    """Look at a checkpoint root, the folder of one denoiser, or a lone weights file.

    Args:
        source: The place.
        variant: One of `VARIANTS`; None: the only one there, else the first of `VARIANTS`.

    Raises:
        UserError: if there is no denoiser, or not the one asked for.
    """
    if not source.exists():
        raise UserError(f"There is no {source}. Check the path.")
    variants = [name for name in VARIANTS if (source / transformer_folder(name)).is_dir()]
    if variants:
        return _root(source, variants, variant)
    if (source / "model_index.json").is_file():
        raise UserError(
            f"{source} is a model folder in the layout of diffusers, not a Pyramid-Flow checkpoint. Give the root of "
            "such a checkpoint. (--reverse turns a folder made from one back; Wan2.1 takes m4v convert wan.)"
        )
    if any((source / name).is_dir() for name in PART_FOLDERS.values()):
        raise UserError(
            f"{source} has no {', '.join(map(transformer_folder, VARIANTS))}; expected at least one of them. Give the "
            "root of a Pyramid-Flow checkpoint, or the folder of one denoiser."
        )
    return _lone(source, variant)


def generation_defaults(variant: str) -> dict[str, Any]:
    """Recommended settings of a released variant, in the plain form of `GenerationDefaults`.

    Source: Pyramid-Flow, README, notebooks and example scripts.
    """
    return {
        **_SIZES[variant],
        "fps": 24.0,
        "first_steps": [20, 20, 20],
        "later_steps": [10, 10, 10],
        "first_guidance": 9.0 if variant == "image" else 7.0,
        "later_guidance": 5.0,
        "image_steps": [10, 10, 10],
        "image_guidance": 4.0,
        "max_text_length": 128,
        "prompt_suffix": ", hyper quality, Ultra HD, 8K",
        "negative_prompt": (
            "cartoon style, worst quality, low quality, blurry, absolute black, absolute white, low res, extra limbs, "
            "extra digits, misplaced objects, mutated anatomy, monochrome, horror"
        ),
        "float16_overflows": True,
    }


def _root(source: Path, variants: list[str], variant: str | None) -> PyramidFlowCheckpoint:
    if variant is not None and variant not in variants:
        raise UserError(f"{source} has no {transformer_folder(variant)}; it has {', '.join(variants)}.")
    chosen = variant or variants[0]
    notes = []
    if variant is None and len(variants) > 1:
        notes.append(f"{source} holds {', '.join(variants)}; taking {chosen} (--variant chooses another).")
    parts = {part: source / name for part, name in PART_FOLDERS.items() if (source / name).is_dir()}
    missing = [name for part, name in PART_FOLDERS.items() if part not in parts]
    if missing:
        notes.append(
            f"{source} has no {', '.join(missing)}: these parts are left out, and whoever opens the model brings them."
        )
    folder = source / transformer_folder(chosen)
    return PyramidFlowCheckpoint(source, chosen, folder, _config_in(folder), parts, tuple(notes))


def _lone(source: Path, variant: str | None) -> PyramidFlowCheckpoint:
    folder = source if source.is_dir() else source.parent
    config = _config_in(folder)
    named = re.search(rf"(?:^|[_-])({'|'.join(VARIANTS)})", source.resolve().name)
    chosen = variant or (named.group(1) if named else VARIANTS[0])
    notes = [f"{source} is a denoiser alone: whoever opens the model brings the autoencoder and the text encoders."]
    if variant is None and named is None:
        notes.append(f"Nothing tells which variant it is; taking the settings of {chosen} (--variant changes it).")
    if config is None:
        notes.append(f"There is no {folder / 'config.json'}; what the tensors do not tell is taken as released.")
    return PyramidFlowCheckpoint(source, chosen, source, config, {}, tuple(notes))


def _config_in(folder: Path) -> Path | None:
    path = folder / "config.json"
    return path if path.is_file() else None
