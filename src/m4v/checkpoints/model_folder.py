"""Model folders in diffusers layout, checked before anything is loaded so that what is wrong can be said plainly."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.tensor_files import open_tensors
from m4v.checkpoints.weights import compare_shapes
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
        any_of: Further files, one of which must be there.
        is_optional: Whether a model may lack the part: no entry in `model_index.json`, or an empty one.
        opened_as: Module and class of ours that opens weights of the named class; None: the named class itself.
    """

    library: str
    class_names: tuple[str, ...]
    config_file: str
    weights_file: str | None = None
    any_of: tuple[str, ...] = ()
    is_optional: bool = False
    opened_as: tuple[str, str] | None = None


_TOKENIZER = ComponentKind(
    "transformers",
    (
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
        "T5TokenizerFast",
        "T5Tokenizer",
        "CLIPTokenizerFast",
        "CLIPTokenizer",
    ),
    "tokenizer_config.json",
    any_of=("tokenizer.json", "vocab.json", "spiece.model"),
    is_optional=True,
)

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
    "text_encoder": ComponentKind(
        "transformers", ("T5EncoderModel", "CLIPTextModel"), "config.json", "model.safetensors", is_optional=True
    ),
    "tokenizer": _TOKENIZER,
    "text_encoder_2": ComponentKind(
        "transformers", ("T5EncoderModel",), "config.json", "model.safetensors", is_optional=True
    ),
    "tokenizer_2": _TOKENIZER,
    "scheduler": ComponentKind("m4v.flow.scheduler", ("PyramidFlowScheduler",), "scheduler_config.json"),
}

WAN_COMPONENTS = {
    "transformer": ComponentKind(
        "m4v.models.denoiser.wan",
        ("WanM4VTransformer3DModel",),
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ),
    "vae": ComponentKind("diffusers", ("AutoencoderKLWan",), "config.json", "diffusion_pytorch_model.safetensors"),
    "text_encoder": ComponentKind("transformers", ("UMT5EncoderModel",), "config.json", "model.safetensors"),
    "tokenizer": replace(_TOKENIZER, is_optional=False),
    "scheduler": ComponentKind(
        "diffusers", ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"), "scheduler_config.json"
    ),
}


def check_model_folder(
    folder: Path,
    pipeline_class: str = "M4VPipeline",
    kinds: Mapping[str, ComponentKind] | None = None,
    skip: frozenset[str] = frozenset(),
    variant: str | None = None,
) -> None:
    """Check that a folder holds a whole model of the right kind whose weights fit its configuration.

    Args:
        folder: The model folder.
        pipeline_class: What `model_index.json` must name.
        kinds: The parts it must have; default: those of `M4VPipeline`.
        skip: Parts the caller brings along, which are not looked at.
        variant: Which of several weights files is meant, as in `model.VARIANT.safetensors`; parts without such a file
            are opened without it.

    Raises:
        UserError: naming the file, what is wrong with it and the remedy.
    """
    index = read_model_index(folder)
    if index.get("_class_name") != pipeline_class:
        raise UserError(
            f"{folder} holds a {index.get('_class_name')}, but a {pipeline_class} is needed. Choose another model."
        )
    for name, kind in (kinds or M4V_COMPONENTS).items():
        if name not in skip:
            _check_component(folder / name, index.get(name), kind, variant)


def read_model_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json` of a model folder.

    Raises:
        UserError: if there is no such folder, it is no model folder, or the file cannot be read.
    """
    if not folder.exists():
        raise UserError(f"There is no model folder {folder}. Check the path.")
    index_path = folder / MODEL_INDEX
    if not index_path.is_file():
        raise UserError(
            f"{folder} is not a model folder: it has no {MODEL_INDEX}. Give the folder that `save_pretrained` or "
            "`m4v train` wrote (in a run folder: export/). Checkpoints of Pyramid-Flow and of Wan2.1's original code "
            "become one with `m4v convert`."
        )
    return read_json(index_path)


def _check_component(folder: Path, entry: Any, kind: ComponentKind, variant: str | None) -> None:
    if entry in (None, [None, None]):
        if kind.is_optional:
            return
        raise UserError(
            f"The model {folder.parent} has no {folder.name}. Bring one, from_pretrained(..., {folder.name}=...), or "
            "convert or save the model again with it."
        )
    named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    library = entry[0] if named else None
    if named not in kind.class_names or library != kind.library:
        raise UserError(
            f"{folder.parent / MODEL_INDEX} names {library}.{named} as {folder.name}; expected "
            f"{kind.library}.{kind.class_names[0]}. This model needs other code; choose another one."
        )
    if not (folder / kind.config_file).is_file():
        raise UserError(f"{folder / kind.config_file} is missing, so the model is incomplete. {_REMEDY}")
    if kind.any_of and not any((folder / name).is_file() for name in kind.any_of):
        raise UserError(f"{folder} has none of {', '.join(kind.any_of)}, so the model is incomplete. {_REMEDY}")
    config = read_json(folder / kind.config_file)
    if "_class_name" in config and config["_class_name"] not in kind.class_names:
        raise UserError(
            f"{folder / kind.config_file} describes a {config['_class_name']}; expected {kind.class_names[0]}. "
            f"{_REMEDY}"
        )
    if kind.weights_file is not None:
        shapes = _weight_shapes(folder, kind.weights_file, variant)
        if "quantization_config" not in config:
            _check_fit(folder, kind, named, config, shapes)


def _weight_shapes(folder: Path, weights_file: str, variant: str | None) -> dict[str, tuple[int, ...]]:
    """Collect tensor shapes from a weights file or from its numbered shards."""
    stem = weights_file.removesuffix(".safetensors")
    for word in ("",) if variant is None else (f".{variant}", ""):
        for path in (folder / f"{stem}{word}.safetensors", folder / f"{weights_file}.index{word}.json"):
            if path.is_file():
                return {name: spec.shape for name, spec in open_tensors(path).specs.items()}
    whole = folder / weights_file
    if variants := sorted(file.name for file in folder.glob(f"{stem}.*.safetensors")):
        raise UserError(
            f"{whole} is missing, but there is {variants[0]}; choose that with variant="
            f'"{variants[0].removeprefix(stem).split(".")[1].split("-")[0]}".'
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} holds pickled weights, which can run code when opened. Convert them to {weights_file} first."
        )
    raise UserError(f"{whole} is missing, so the model is incomplete. {_REMEDY}")


def _check_fit(
    folder: Path, kind: ComponentKind, class_name: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Compare the weights with those of the network that the configuration describes, built without memory."""
    path = folder / kind.config_file
    try:
        with torch.device("meta"):
            module = _empty_module(kind, class_name, config)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {error}. {_REMEDY}") from error
    needed = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    tied = frozenset(getattr(module, "_tied_weights_keys", None) or ())
    if kind.library == "transformers":
        shapes = _as_transformers_loads(shapes, needed)
    difference = compare_shapes(needed, shapes, optional=tied)
    if difference:
        raise UserError(
            f"The weights in {folder} belong to another configuration than its {kind.config_file}: tensors "
            f"{difference}. Put the two files of the same model together, or save it again."
        )


def _as_transformers_loads(
    shapes: dict[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Undo what older transformers did to CLIP files, as the library itself does: a prefix, and position numbers."""
    prefix = "" if any(name.startswith("text_model.") for name in needed) else "text_model."
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if not name.endswith(".position_ids")}


def _empty_module(kind: ComponentKind, class_name: str, config: dict[str, Any]) -> nn.Module:
    library, class_name = kind.opened_as or (kind.library, class_name)
    module_class: Any = getattr(import_module(library), class_name)
    if hasattr(module_class, "from_config"):
        # `auto_map` names code for diffusers' AutoModel, which changes nothing here.
        known = {*module_class._get_init_keys(module_class), "auto_map"}
        unknown = sorted(key for key in config if not key.startswith("_") and key not in known)
        # Classes of diffusers pass over settings they do not know; ours never dropped one.
        if unknown and library != "diffusers":
            raise UserError(f"unknown settings {', '.join(unknown)}. It was written by another version of the model.")
        module: nn.Module = module_class.from_config(config)
        return module
    module = module_class(module_class.config_class.from_dict(config))
    return module
