"""A model folder of ours with attention in every layer back to Wan2.1's layouts, in the files it came from if known."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor

from m4v.checkpoints.conversion_report import ConversionReport
from m4v.checkpoints.converted_folder import CONVERSION_RECORD, link_tree, require_new_target
from m4v.checkpoints.json_tables import read_json, write_json
from m4v.checkpoints.mamba_conversion import constructor_arguments
from m4v.checkpoints.model_card import MODEL_CARD, TRAINING_FACTS
from m4v.checkpoints.model_folder import MODEL_INDEX, read_model_index
from m4v.checkpoints.renaming import Renaming
from m4v.checkpoints.stored_files import StoredFiles
from m4v.checkpoints.tensor_files import TensorSpec, open_tensors, write_shards
from m4v.checkpoints.tensor_recipes import Advance, Recipe, Tensors, make_tensors, taken
from m4v.checkpoints.wan_folder import STOCK_PIPELINE
from m4v.checkpoints.wan_names import PREFIX, same_names, wan_renaming
from m4v.checkpoints.wan_source import DIFFUSERS_FIELDS, ORIGINAL_FIELDS, WAN, Layout
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.models.denoiser.wan_config import WanConfig, wan_config

_REPLACED = ("transformer", MODEL_INDEX, MODEL_CARD, TRAINING_FACTS, CONVERSION_RECORD)
_STOCK_CLASS = "WanTransformer3DModel"
_TEXT_LENGTH = 512


def reverse_wan(
    source: Path,
    target: Path,
    layout: Layout,
    *,
    max_shard_bytes: int = 5 * 1000**3,
    on_progress: Advance | None = None,
) -> ConversionReport:
    """Write a Wan2.1 checkpoint.

    What was converted from the same layout comes back in the same files, byte for byte where weights are the same.
    Otherwise the original layout is network and configuration, that of diffusers a whole pipeline folder.

    Args:
        source: Model folder of ours, attention in every layer.
        target: Folder to make.
        layout: Whose names and files.
        max_shard_bytes: Largest weights file, where the files are not known from before.
        on_progress: Told how many tensors are written.

    Raises:
        UserError: if the source is something else or has state-space layers, or the place cannot be written.
    """
    read_model_index(source)
    settings = _attention_settings(source)
    require_new_target(source, target)
    tensors = open_tensors(source / "transformer")
    renaming = wan_renaming(settings.num_layers)
    renaming.require_ours(tensors.specs, str(source / "transformer"))
    if layout == "diffusers":
        renaming = same_names(renaming)
    stored = _files_it_came_from(source, layout)
    recipes = _recipes(renaming, tensors, "" if stored is None else stored.common_prefix(PREFIX))
    if stored is not None and stored.specs != {recipe.name: recipe.spec for recipe in recipes}:
        stored = None  # changed since, in precision for example: there is no way back to the same bytes
    is_pipeline = layout == "diffusers" and (stored is None or stored.has_folder("transformer"))
    with atomic_path(target) as temporary:
        temporary.mkdir()
        if is_pipeline:
            link_tree(source, temporary, skip=_REPLACED)
        if stored is None:
            write = _write_as_released(temporary, layout, source, settings, max_shard_bytes)
        else:
            write = stored.writer(temporary)
        report = make_tensors(recipes, tensors, target, write, on_progress)
    return report


def _attention_settings(source: Path) -> WanConfig:
    config = read_json(source / "transformer" / "config.json")
    if config.get("_class_name") != WAN.class_name:
        raise UserError(
            f"{source / 'transformer'} holds a {config.get('_class_name')}; expected {WAN.class_name}, as m4v convert "
            "wan writes it. Choose such a folder."
        )
    settings = wan_config(constructor_arguments(config))
    scans = [str(layer) for layer, kind in enumerate(settings.kinds) if kind != "attention"]
    if scans:
        raise UserError(
            f"{source} has state-space layers ({', '.join(scans)}), which Wan2.1 has not. Only a model with attention "
            "in every layer can go back."
        )
    return settings


def _files_it_came_from(source: Path, layout: Layout) -> StoredFiles | None:
    path = source / CONVERSION_RECORD
    record = read_json(path) if path.is_file() else {}
    if record.get("conversion") != "wan" or record.get("layout") != layout:
        return None
    stored = StoredFiles.from_plain(record.get("source_files") or {}, path)
    return stored if stored.headers else None


def _recipes(renaming: Renaming, tensors: Tensors, prefix: str) -> list[Recipe]:
    return [taken(prefix + theirs, tensors, ours) for theirs, ours in renaming.theirs_to_ours.items()]


def _write_as_released(
    folder: Path, layout: Layout, source: Path, settings: WanConfig, max_shard_bytes: int
) -> Callable[[Mapping[str, TensorSpec], Callable[[str], Tensor]], Any]:
    network = folder / "transformer" if layout == "diffusers" else folder
    network.mkdir(exist_ok=True)
    if layout == "diffusers":
        write_json(folder / MODEL_INDEX, _stock_index(read_json(source / MODEL_INDEX)))
    write_json(network / "config.json", _diffusers_config(settings) if layout == "diffusers" else _original(settings))
    return lambda specs, read: write_shards(network, specs, read, max_shard_bytes=max_shard_bytes)


def _stock_index(index: Mapping[str, Any]) -> dict[str, Any]:
    stock = {name: entry for name, entry in index.items() if name != "defaults"}
    return stock | {"_class_name": STOCK_PIPELINE, "transformer": ["diffusers", _STOCK_CLASS]}


def _diffusers_config(settings: WanConfig) -> dict[str, Any]:
    plain = to_plain(settings)
    header = {"_class_name": _STOCK_CLASS, "_diffusers_version": diffusers.__version__}
    return header | {name: plain[name] for name in sorted(DIFFUSERS_FIELDS)}


def _original(settings: WanConfig) -> dict[str, Any]:
    header = {"_class_name": "WanModel", "_diffusers_version": diffusers.__version__}
    fields = {theirs: getattr(settings, ours) for theirs, ours in ORIGINAL_FIELDS.items()}
    return header | fields | {"dim": settings.width, "model_type": "t2v", "text_len": _TEXT_LENGTH}
