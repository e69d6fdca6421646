"""Trained modules to a model folder that `M4VPipeline.from_pretrained` and every diffusers user can open."""

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from m4v.checkpoints.model_card import write_model_card
from m4v.checkpoints.model_folder import M4V_COMPONENTS, MODEL_INDEX
from m4v.core.config_io import to_plain
from m4v.core.files import atomic_path


def export_pipeline(
    target: Path,
    *,
    transformer: nn.Module,
    vae: nn.Module,
    text_encoder: nn.Module,
    tokenizer: Any,
    scheduler: Any,
    defaults: Any,
    training_facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    model_name: str | None = None,
) -> Path:
    """Write a whole model folder, safetensors only; an existing one is replaced once the new one is complete.

    Args:
        target: Folder to make.
        transformer: The denoiser.
        vae: The video autoencoder.
        text_encoder: The prompt encoder.
        tokenizer: The prompt tokenizer.
        scheduler: The pyramid flow scheduler.
        defaults: Generation settings, as a dataclass or a mapping.
        training_facts: JSON values for the model card and `training.json`.
        dtype: Precision of the stored weights, for example `torch.bfloat16`; None keeps each module's own.
        model_name: What the model card calls the model; the folder's name if unset.

    Returns:
        The folder.

    Raises:
        UserError: if the place cannot be written.
    """
    parts = {
        "transformer": in_dtype(transformer, dtype),
        "vae": in_dtype(vae, dtype),
        "text_encoder": in_dtype(text_encoder, dtype),
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    plain_defaults = to_plain(defaults)
    index: dict[str, Any] = {"_class_name": "M4VPipeline", "_diffusers_version": diffusers.__version__}
    index |= {
        name: [kind.library, type(parts[name]).__name__] if name in parts else [None, None]
        for name, kind in M4V_COMPONENTS.items()
    }
    index["defaults"] = plain_defaults
    with atomic_path(target) as temporary:
        temporary.mkdir()
        with _without_progress_bars():
            for name, part in parts.items():
                part.save_pretrained(temporary / name)
        (temporary / MODEL_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_model_card(temporary, model_name or Path(target).name, plain_defaults, training_facts)
        tidy_model_folder(temporary)
    return Path(target)


def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Return the module itself, or a copy on the CPU in another precision; the argument is never changed.

    Tensors that a diffusers model wants in float32 (decay rates of the scan, for example) stay as they are.
    """
    if dtype is None or all(value.dtype == dtype for value in _castable(module).values()):
        return module
    copied = copy.deepcopy(module).to("cpu")
    for value in _castable(copied).values():
        value.data = value.data.to(dtype)
    return copied


def _castable(module: nn.Module) -> dict[str, Tensor]:
    kept = (getattr(module, "_keep_in_fp32_modules", None) or ()) if isinstance(module, ModelMixin) else ()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        name: value
        for name, value in tensors
        if value.is_floating_point() and not any(part in kept for part in name.split("."))
    }


def tidy_model_folder(folder: Path) -> None:
    """Take out what says more about this machine than about the model.

    Weights get the mode of the files beside them (safetensors makes them readable for their owner only), and
    configurations forget the folder they were once loaded from.
    """
    mode = (folder / MODEL_INDEX).stat().st_mode
    for file in folder.rglob("*.safetensors"):
        file.chmod(mode)
    for file in (folder / MODEL_INDEX, *folder.glob("*/*config.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for every file, as the caller may be drawing its own."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
