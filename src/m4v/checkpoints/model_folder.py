"""Model folders in diffusers layout, checked before anything is loaded so that what is wrong can be said plainly."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from m4v.checkpoints.weights import compare_shapes, read_shapes
from m4v.core.errors import UserError

MODEL_INDEX = "model_index.json"
_REMEDY = "Save or download the model again."


@dataclass(frozen=True)
class ComponentKind:
    """One part of a pipeline: where its class lives and which files a folder of it must have.

    Attributes:
        library: Module the class is imported from, as `model_index.json` names it.
        class_names: Accepted class names; transformers renames some between versions.
        config_file: JSON file with the configuration.
        weights_file: Safetensors file; None for parts without weights.
    """

    library: str
    class_names: tuple[str, ...]
    config_file: str
    weights_file: str | None = None


M4V_COMPONENTS = {
    "transformer": ComponentKind(
        "m4v.models.denoiser.pyramid",
        ("M4VTransformer3DModel",),
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ),
    "vae": ComponentKind(
        "m4v.models.vae.causal_video_vae",
        ("CausalVideoVAE",),
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ),
    "text_encoder": ComponentKind("transformers", ("T5EncoderModel",), "config.json", "model.safetensors"),
    "tokenizer": ComponentKind(
        "transformers", ("PreTrainedTokenizerFast", "TokenizersBackend", "T5TokenizerFast"), "tokenizer.json"
    ),
    "scheduler": ComponentKind("m4v.flow.scheduler", ("PyramidFlowScheduler",), "scheduler_config.json"),
}


def check_model_folder(
    folder: Path,
    pipeline_class: str = "M4VPipeline",
    kinds: dict[str, ComponentKind] | None = None,
    skip: frozenset[str] = frozenset(),
) -> None:
    """Check that a folder holds a whole model of the right kind whose weights fit its configuration.

    Args:
        folder: The model folder.
        pipeline_class: What `model_index.json` must name.
        kinds: The parts it must have; default: those of `M4VPipeline`.
        skip: Parts the caller brings along, which are not looked at.

    Raises:
        UserError: naming the file, what is wrong with it and the remedy.
    """
    if not folder.exists():
        raise UserError(f"There is no model folder {folder}. Check the path.")
    index_path = folder / MODEL_INDEX
    if not index_path.is_file():
        raise UserError(
            f"{folder} is not a model folder: it has no {MODEL_INDEX}. Give the folder that `save_pretrained` or "
            "`m4v train` wrote (in a run folder: export/)."
        )
    index = _read_json(index_path)
    if index.get("_class_name") != pipeline_class:
        raise UserError(
            f"{folder} holds a {index.get('_class_name')}, but a {pipeline_class} is needed. Choose another model."
        )
    for name, kind in (kinds or M4V_COMPONENTS).items():
        if name not in skip:
            _check_component(folder / name, index_path, index.get(name), kind)


def _check_component(folder: Path, index_path: Path, entry: Any, kind: ComponentKind) -> None:
    named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    library = entry[0] if named else None
    if named not in kind.class_names or library != kind.library:
        raise UserError(
            f"{index_path} names {library}.{named} as {folder.name}; expected {kind.library}.{kind.class_names[0]}. "
            "This model needs other code; choose another one."
        )
    if not (folder / kind.config_file).is_file():
        raise UserError(f"{folder / kind.config_file} is missing, so the model is incomplete. {_REMEDY}")
    config = _read_json(folder / kind.config_file)
    if "_class_name" in config and config["_class_name"] not in kind.class_names:
        raise UserError(
            f"{folder / kind.config_file} describes a {config['_class_name']}; expected {kind.class_names[0]}. "
            f"{_REMEDY}"
        )
    if kind.weights_file is not None:
        shapes = _weight_shapes(folder, kind.weights_file)
        if "quantization_config" not in config:
            _check_fit(folder, kind, config, shapes)


def _weight_shapes(folder: Path, weights_file: str) -> dict[str, tuple[int, ...]]:
    """Collect tensor shapes from a weights file or from its numbered shards."""
    whole = folder / weights_file
    if whole.is_file():
        return read_shapes(whole)
    listing = folder / f"{weights_file}.index.json"
    if listing.is_file():
        weight_map = _read_json(listing).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{listing} has no weight_map. {_REMEDY}")
        shapes: dict[str, tuple[int, ...]] = {}
        for shard in sorted(set(weight_map.values())):
            shapes.update(read_shapes(folder / shard))
        return shapes
    variants = sorted(folder.glob(f"{Path(weights_file).stem}.*.safetensors"))
    if variants:
        return read_shapes(variants[0])
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} holds pickled weights, which can run code when opened. Convert them to {weights_file} first."
        )
    raise UserError(f"{whole} is missing, so the model is incomplete. {_REMEDY}")


def _check_fit(folder: Path, kind: ComponentKind, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare the weights with those of the network that the configuration describes, built without memory."""
    path = folder / kind.config_file
    try:
        with torch.device("meta"):
            module = _empty_module(kind, config, folder)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {error}. {_REMEDY}") from error
    needed = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    tied = frozenset(getattr(module, "_tied_weights_keys", None) or ())
    difference = compare_shapes(needed, shapes, optional=tied)
    if difference:
        raise UserError(
            f"The weights in {folder} belong to another configuration than its {kind.config_file}: tensors "
            f"{difference}. Put the two files of the same model together, or save it again."
        )


def _empty_module(kind: ComponentKind, config: dict[str, Any], folder: Path) -> nn.Module:
    module_class: Any = getattr(import_module(kind.library), kind.class_names[0])
    if hasattr(module_class, "from_config"):
        known = set(module_class._get_init_keys(module_class))
        unknown = sorted(key for key in config if not key.startswith("_") and key not in known)
        if unknown:
            raise UserError(f"unknown settings {', '.join(unknown)}. It was written by another version of the model.")
        module: nn.Module = module_class.from_config(config)
        return module
    module = module_class(module_class.config_class.from_dict(config))
    return module


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). {_REMEDY}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a table. {_REMEDY}")
    return value
