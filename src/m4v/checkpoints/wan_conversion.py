"""A Wan2.1 checkpoint to a model folder of ours, streamed: with attention in every layer, or starting from it."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.conversion_report import ConversionReport
from m4v.checkpoints.converted_folder import link_tree, require_new_target, write_record
from m4v.checkpoints.json_tables import read_json, write_json
from m4v.checkpoints.mamba_conversion import MambaPlan, mamba_facts
from m4v.checkpoints.model_card import write_model_card
from m4v.checkpoints.model_folder import MODEL_INDEX, WAN_COMPONENTS
from m4v.checkpoints.stored_files import StoredFiles
from m4v.checkpoints.tensor_files import write_shards
from m4v.checkpoints.tensor_recipes import Advance, Recipe, make_tensors, taken
from m4v.checkpoints.wan_folder import OUR_PIPELINE
from m4v.checkpoints.wan_source import WAN, WanSource
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.flow.library_schedulers import make_library_scheduler

_PARTS = ("vae", "text_encoder", "tokenizer")
# Field of config.json, and what it must say: other models have folders of these names, too.
_SIGNS = {"vae": ("_class_name", "AutoencoderKLWan"), "text_encoder": ("model_type", "umt5")}


@dataclass(frozen=True)
class WanConversion:
    """What was made.

    Attributes:
        report: The fate of every tensor of the network.
        missing_parts: Parts that the folder still needs before it can make videos.
    """

    report: ConversionReport
    missing_parts: tuple[str, ...]


def convert_wan(
    source: WanSource,
    target: Path,
    *,
    defaults: Mapping[str, Any],
    flow_shift: float,
    to_mamba: MambaInitialisation | None = None,
    dtype: torch.dtype | None = None,
    parts: Path | None = None,
    max_shard_bytes: int = 5 * 1000**3,
    on_progress: Advance | None = None,
) -> WanConversion:
    """Write a model folder for `WanM4VPipeline`.

    Args:
        source: The opened checkpoint.
        target: Folder to make.
        defaults: Generation settings to recommend, as plain types.
        flow_shift: Shift of the sampler that is written.
        to_mamba: Turn self-attention into state-space layers; None keeps the network as it is.
        dtype: Precision of the written network, but for what its class keeps in float32; None: every tensor's own.
        parts: Folder in diffusers layout with what the source lacks of vae, text_encoder and tokenizer.
        max_shard_bytes: Largest weights file.
        on_progress: Told how many tensors are written.

    Raises:
        UserError: if the plan changes nothing, `parts` lacks a part, or the place cannot be written.
    """
    require_new_target(source.path, target)
    plan = None if to_mamba is None else MambaPlan.of(WAN, source.arguments, to_mamba)
    arguments = source.arguments if plan is None else plan.arguments
    homes = _homes(source, parts)
    missing = tuple(name for name in _PARTS if name not in homes)
    facts = {"wan2.1": source.size} if plan is None else mamba_facts(plan, {"wan2.1": source.size})
    with atomic_path(target) as temporary:
        network = temporary / "transformer"
        network.mkdir(parents=True)
        write = functools.partial(write_shards, network, max_shard_bytes=max_shard_bytes)
        report = source.tensors.under_own_names(
            make_tensors(_recipes(source, plan, dtype), source.tensors, target, write, on_progress)
        )
        header = {"_class_name": WAN.class_name, "_diffusers_version": diffusers.__version__}
        write_json(network / "config.json", {**header, **arguments})
        for name, home in homes.items():
            link_tree(home / name, temporary / name)
        make_library_scheduler("unipc", flow_shift).save_pretrained(temporary / "scheduler")
        write_json(temporary / MODEL_INDEX, _index(homes, defaults))
        record = {
            "conversion": "wan",
            "layout": source.layout,
            "dtype": "keep" if dtype is None else str(dtype).removeprefix("torch."),
            "to_mamba": None if plan is None else plan.record(),
            **report.to_plain(),
            "source_files": StoredFiles.of(source.root, source.stored).to_plain(),
        }
        write_model_card(temporary, target.resolve().name, defaults, facts, OUR_PIPELINE)
        write_record(temporary, record)
    return WanConversion(report, missing)


def _recipes(source: WanSource, plan: MambaPlan | None, dtype: torch.dtype | None) -> Iterator[Recipe]:
    tensors = source.tensors
    recipes = (taken(name, tensors) for name in tensors.specs) if plan is None else plan.recipes(tensors)
    kept = WAN.kept_in_float32
    for recipe in recipes:
        is_kept = bool(kept & set(recipe.name.split(".")))
        yield recipe if dtype is None or is_kept else recipe.in_dtype(dtype)


def _homes(source: WanSource, parts: Path | None) -> dict[str, Path]:
    """Folder that holds each part; what the user names goes before what the checkpoint has."""
    homes = {}
    if parts is not None:
        homes = {name: parts for name in _PARTS if (parts / name).is_dir()}
        if not homes:
            raise UserError(
                f"--parts is {parts}, which has none of the folders {', '.join(_PARTS)}. Give a Wan2.1 folder in the "
                "layout of diffusers."
            )
    if source.parts_root is not None:
        for name in _PARTS:
            if name not in homes and (source.parts_root / name).is_dir():
                homes[name] = source.parts_root
    for name in homes.keys() & _SIGNS.keys():
        field, needed = _SIGNS[name]
        path = homes[name] / name / "config.json"
        if (found := read_json(path).get(field)) != needed:
            raise UserError(f"{path} says {field} = {found!r}; expected {needed!r}, as Wan2.1 has it. Choose another.")
    return homes


def _index(homes: Mapping[str, Path], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`model_index.json`; a part that is still missing is named as the released folders name it."""
    index: dict[str, Any] = {
        "_class_name": OUR_PIPELINE,
        "_diffusers_version": diffusers.__version__,
        "boundary_ratio": None,
        "expand_timesteps": False,
        "transformer_2": [None, None],
        "defaults": dict(defaults),
    }
    index |= {name: [kind.library, kind.class_names[0]] for name, kind in WAN_COMPONENTS.items()}
    index["tokenizer"] = ["transformers", "T5TokenizerFast"]
    for name, home in homes.items():
        listed = read_json(home / MODEL_INDEX).get(name) if (home / MODEL_INDEX).is_file() else None
        if isinstance(listed, list) and len(listed) == 2:
            index[name] = listed
    return index
