"""CLIP towers and tokenizers from local files: transformers folders, or open_clip state dicts, both strictly."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from m4v.core.errors import UserError
from m4v.rewards.open_clip_names import OpenClipFacts, is_open_clip, read_config, to_transformers, without_wrapper
from m4v.rewards.stored_state import load_strictly, read_json, read_state

_SUFFIXES = (".safetensors", ".pt", ".bin", ".pth")
_INDEX = "model.safetensors.index.json"
_BUFFERS = ("embeddings.position_ids",)
"""Counters that old files hold beside the weights."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def load_clip_towers(path: Path, sources: str) -> CLIPModel:
    """Load both towers in 32 bits.

    Args:
        path: A folder of transformers (`config.json`, `model.safetensors`), or an open_clip file, or a folder with one;
            `open_clip_config.json` beside it is read if it is there.
        sources: Where such files come from, for messages.

    Raises:
        UserError: if the file is missing, damaged, or not exactly such a model.
    """
    if not path.exists():
        raise UserError(f"There is nothing at {path}. Give the local files of {sources}.")
    if path.is_dir() and (path / "config.json").is_file():
        return _from_transformers(path, sources)
    file = _weights_file(path, sources)
    state = without_wrapper(read_state(file))
    if not is_open_clip(state):
        raise UserError(
            f"{file} holds {len(state)} tensors, but none of an open_clip picture tower (visual.conv1.weight). Give "
            f"the files of {sources}, or a transformers folder with its config.json."
        )
    facts = _facts(file.parent / "open_clip_config.json")
    return load_strictly(CLIPModel(read_config(state, facts)), to_transformers(state), str(file))


def load_clip_tokenizer(path: Path) -> Any:
    """Load the tokenizer beside the weights.

    Raises:
        UserError: if its files are missing or unreadable.
    """
    folder = path if path.is_dir() else path.parent
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{folder} holds no tokenizer ({' or '.join(_TOKENIZER_FILES)} with merges.txt). Put the tokenizer files "
            "of any CLIP model there, for example those of openai/clip-vit-base-patch32: all share one vocabulary."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The tokenizer in {folder} cannot be read: {error}. Restore or download it again.") from error


def _from_transformers(folder: Path, sources: str) -> CLIPModel:
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "clip":
        raise UserError(
            f"{folder / 'config.json'} is of a model of type {settings.get('model_type')!r}; expected clip. Give the "
            f"local files of {sources}."
        )
    state = {name: value for name, value in _folder_state(folder).items() if not name.endswith(_BUFFERS)}
    return load_strictly(CLIPModel(CLIPConfig.from_dict(settings)), without_wrapper(state), str(folder))


def _folder_state(folder: Path) -> dict[str, Tensor]:
    if (folder / _INDEX).is_file():
        names = sorted(set(read_json(folder / _INDEX)["weight_map"].values()))
        return {name: value for file in names for name, value in read_state(folder / file).items()}
    return read_state(_weights_file(folder, "a transformers CLIP"))


def _weights_file(path: Path, sources: str) -> Path:
    if path.is_file():
        return path
    found = [file for suffix in _SUFFIXES for file in sorted(path.glob(f"*{suffix}"))]
    if not found:
        raise UserError(f"{path} holds no weights ({', '.join(_SUFFIXES)}). Give the local files of {sources}.")
    first = [file for file in found if file.suffix == found[0].suffix]
    if len(first) > 1:
        raise UserError(
            f"{path} holds several weight files ({', '.join(file.name for file in first)}); name one of them."
        )
    return first[0]


def _facts(path: Path) -> OpenClipFacts:
    if not path.is_file():
        return OpenClipFacts()
    model = read_json(path).get("model_cfg", {})
    if "model_name" in model.get("vision_cfg", {}) or "hf_model_name" in model.get("text_cfg", {}):
        raise UserError(
            f"{path} describes towers of other libraries: {json.dumps(model)[:200]}. Give a plain ViT model."
        )
    text = model.get("text_cfg", {})
    return OpenClipFacts(
        activation="quick_gelu" if model.get("quick_gelu", False) else "gelu",
        vision_head_width=model.get("vision_cfg", {}).get("head_width"),
        text_head_width=text["width"] // text["heads"] if "width" in text and "heads" in text else 64,
    )
