"""Folders of Wan2.1 text-to-video models, ours and diffusers' own, told apart from those of neighbouring models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from m4v.checkpoints.model_folder import (
    MODEL_INDEX,
    WAN_COMPONENTS,
    ComponentKind,
    check_model_folder,
    read_model_index,
)
from m4v.checkpoints.wan_neighbours import refuse_config
from m4v.core.errors import UserError

OUR_PIPELINE = "WanM4VPipeline"
STOCK_PIPELINE = "WanPipeline"

_OURS = WAN_COMPONENTS["transformer"]
_OUR_TRANSFORMER = [_OURS.library, _OURS.class_names[0]]
_STOCK_TRANSFORMER = ["diffusers", "WanTransformer3DModel"]
_STOCK_KIND = replace(
    _OURS, library="diffusers", class_names=("WanTransformer3DModel",), opened_as=(_OURS.library, _OURS.class_names[0])
)


def check_wan_folder(folder: Path, skip: frozenset[str] = frozenset(), variant: str | None = None) -> str:
    """Check that a folder holds a whole Wan2.1 text-to-video model, of ours or of diffusers.

    Args:
        folder: The model folder.
        skip: Parts the caller brings along, which are not looked at.
        variant: Which of several weights files is meant.

    Returns:
        The pipeline class it names: `WanM4VPipeline` or `WanPipeline`.

    Raises:
        UserError: naming the file, what is wrong with it and the remedy; other Wan models by their names.
    """
    index = read_model_index(folder)
    found = index.get("_class_name")
    if found != OUR_PIPELINE:
        refuse_config(index, folder / MODEL_INDEX)
    if found not in (OUR_PIPELINE, STOCK_PIPELINE):
        raise UserError(
            f"{folder} holds a {found}, but a {OUR_PIPELINE} or a stock {STOCK_PIPELINE} of Wan2.1 text-to-video is "
            "needed. Choose another model."
        )
    if index.get("transformer_2") not in (None, [None, None]):
        raise UserError(
            f"{folder / MODEL_INDEX} names a transformer_2, as Wan2.2 has it; only Wan2.1 text-to-video is supported. "
            "Choose another model, or take the entry out."
        )
    kinds: dict[str, ComponentKind] = dict(WAN_COMPONENTS)
    if index.get("transformer") == _STOCK_TRANSFORMER:
        kinds["transformer"] = _STOCK_KIND
    check_model_folder(folder, found, kinds, skip, variant)
    return str(found)


def with_our_transformer(index: Mapping[str, Any]) -> dict[str, Any]:
    """Give a `model_index.json` in which our classes stand where diffusers' Wan classes stood."""
    ours = dict(index)
    if ours.get("_class_name") == STOCK_PIPELINE:
        ours["_class_name"] = OUR_PIPELINE
    if list(ours.get("transformer") or ()) == _STOCK_TRANSFORMER:
        ours["transformer"] = list(_OUR_TRANSFORMER)
    return ours
