"""A Wan2.1 checkpoint on disk, in whichever layout: what it is, its configuration, its tensors under our names."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.mamba_conversion import BASES, constructor_arguments
from m4v.checkpoints.model_folder import MODEL_INDEX
from m4v.checkpoints.tensor_files import TensorSource, TensorSpec, open_tensors
from m4v.checkpoints.tensor_recipes import RenamedTensors
from m4v.checkpoints.wan_names import PREFIX, count_layers, same_names, wan_renaming
from m4v.checkpoints.wan_neighbours import refuse_channels, refuse_config, refuse_folder, refuse_names
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.wan_config import PRESETS, wan_config

logger = logging.getLogger(__name__)

Layout = Literal["original", "diffusers"]

WAN = BASES["WanM4VTransformer3DModel"]
_HEAD_DIM = 128

# Field of the original `config.json` -> argument of diffusers' class; what is not here cannot be chosen there.
ORIGINAL_FIELDS = {
    "num_heads": "num_attention_heads",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "ffn_dim": "ffn_dim",
    "freq_dim": "freq_dim",
    "num_layers": "num_layers",
    "eps": "eps",
}
# Fixed in the original code's checkpoints: with anything else, it would be another network.
_ORIGINAL_FIXED: dict[str, Any] = {
    "qk_norm": True,
    "cross_attn_norm": True,
    "window_size": [-1, -1],
    "text_len": 512,
}
DIFFUSERS_FIELDS = frozenset(to_plain(PRESETS["wan-14b"])) - {
    *("mixer_plan", "mixer", "recomposition", "temporal_branch", "text_path")
}


@dataclass(frozen=True)
class WanSource:
    """An opened checkpoint.

    Attributes:
        path: The folder or file the user named.
        layout: Whose tensor names it has.
        stored: The tensors under their own names.
        tensors: The tensors under ours.
        arguments: Constructor arguments of the attention-only network.
        parts_root: Folder with vae, text_encoder and tokenizer; None if the checkpoint is the network alone.
    """

    path: Path
    layout: Layout
    stored: TensorSource
    tensors: RenamedTensors
    arguments: dict[str, Any]
    parts_root: Path | None

    @property
    def root(self) -> Path:
        """The folder named, or that of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def size(self) -> str:
        """Name of the released size, or the network's width."""
        settings = wan_config(self.arguments)
        for name, preset in PRESETS.items():
            if (preset.width, preset.num_layers) == (settings.width, settings.num_layers):
                return name
        return f"{settings.width} channels, {settings.num_layers} layers"


def open_wan(path: Path) -> WanSource:
    """Find out what a checkpoint is, and open it without reading values.

    Args:
        path: Folder of the original or the diffusers layout, a transformer folder alone, or one file.

    Raises:
        UserError: if it is a neighbour of Wan2.1 text-to-video, mixes layouts, lacks tensors or has others, has wrong
            shapes, or is damaged.
    """
    if not path.exists():
        raise UserError(f"There is no {path}. Check the path.")
    network = path / "transformer" if (path / "transformer").is_dir() else path
    config = _config(path, network)
    stored = open_tensors(network)
    specs = stored.specs
    prefix = _common_prefix(specs, path)
    own_names = {name.removeprefix(prefix): name for name in specs}
    refuse_names(own_names, path)
    layout = _layout(own_names, path)
    renaming = wan_renaming(_num_layers(config, own_names, specs))
    if layout == "diffusers":
        renaming = same_names(renaming)
    renaming.require_theirs(own_names, str(path))
    tensors = RenamedTensors(stored, {ours: own_names[theirs] for theirs, ours in renaming.theirs_to_ours.items()})
    refuse_channels(_axis(tensors.specs, "patch_embedding.weight", 1), path)
    arguments = _arguments(config or {}, layout, tensors.specs)
    WAN.require_shapes(arguments, tensors, path)
    return WanSource(path, layout, stored, tensors, arguments, None if network == path else path)


def _config(path: Path, network: Path) -> dict[str, Any] | None:
    """The network's configuration, if there is one, after a look at all that tells what the checkpoint is.

    Raises:
        UserError: if it is a neighbour of Wan2.1 text-to-video.
    """
    if path.is_dir():
        refuse_folder(path)
        if (path / MODEL_INDEX).is_file():
            refuse_config(read_json(path / MODEL_INDEX), path / MODEL_INDEX)
    config_path = (network if network.is_dir() else network.parent) / "config.json"
    if not config_path.is_file():
        return None
    config = read_json(config_path)
    refuse_config(config, config_path)
    return config


def _common_prefix(names: Iterable[str], where: Path) -> str:
    names = list(names)
    prefixed = sum(name.startswith(PREFIX) for name in names)
    if prefixed not in (0, len(names)):
        raise UserError(
            f"{where} has {prefixed} tensors whose names begin with {PREFIX} and {len(names) - prefixed} others, so it "
            "holds more than one network. Give a file with the denoiser alone."
        )
    return PREFIX if prefixed else ""


def _layout(names: Mapping[str, str], where: Path) -> Layout:
    table = wan_renaming(min(len(names), count_layers(names)))  # a damaged name may bear any number
    theirs, ours = table.theirs_to_ours.keys(), table.ours_to_theirs.keys()
    original, diffusers = len((theirs - ours) & names.keys()), len((ours - theirs) & names.keys())
    if original and diffusers:
        raise UserError(
            f"{where} mixes layouts: {original} tensors have names of the original Wan2.1 and {diffusers} those of "
            "diffusers. Download it again from one source."
        )
    if not original and not diffusers:
        shown = ", ".join(list(names)[:10]) or "no tensors"
        raise UserError(
            f"{where} is not a Wan2.1 network: of its {len(names)} tensors ({shown}) none has a name of the original "
            "layout or of diffusers. Give the folder with the denoiser's weights."
        )
    return "original" if original else "diffusers"


def _num_layers(config: Mapping[str, Any] | None, names: Mapping[str, str], specs: Mapping[str, TensorSpec]) -> int:
    """Layers that the checkpoint should have: as configured, as released, or as found."""
    stated = (config or {}).get("num_layers")
    if isinstance(stated, int) and stated > 0:
        return min(stated, len(names))  # enough to list missing layers, however many a damaged configuration asks for
    embedding = names.get("patch_embedding.weight")
    width = specs[embedding].shape[0] if embedding else 0
    released = [preset.num_layers for preset in PRESETS.values() if preset.width == width]
    return released[0] if released else max(1, min(len(names), count_layers(names)))


def _arguments(config: Mapping[str, Any], layout: Layout, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Arguments from the configuration; what it does not say is read from the tensors.

    Raises:
        UserError: if the configuration contradicts the tensors, or describes another network.
    """
    patch = specs["patch_embedding.weight"].shape[2:]
    width = _axis(specs, "patch_embedding.weight", 0)
    arguments: dict[str, Any] = {
        "patch_size": list(patch),
        "in_channels": _axis(specs, "patch_embedding.weight", 1),
        "out_channels": _axis(specs, "proj_out.weight", 0) // max(1, torch.Size(patch).numel()),
        "text_dim": _axis(specs, "condition_embedder.text_embedder.linear_1.weight", 1),
        "freq_dim": _axis(specs, "condition_embedder.time_embedder.linear_1.weight", 1),
        "ffn_dim": _axis(specs, "blocks.0.ffn.net.0.proj.weight", 0),
        "num_layers": count_layers(specs),
    }
    known = constructor_arguments(config)
    if layout == "original":
        _check_fixed(known, width)
        known = {name: value for name, value in known.items() if name not in _ORIGINAL_FIXED}
    arguments |= {ours: known[theirs] for theirs, ours in ORIGINAL_FIELDS.items() if theirs in known}
    arguments |= {name: value for name, value in known.items() if name in DIFFUSERS_FIELDS}
    if "num_attention_heads" not in arguments:
        logger.warning("No configuration tells the number of heads; taking heads of %d channels.", _HEAD_DIM)
        arguments["num_attention_heads"] = max(1, width // _HEAD_DIM)
    heads = arguments["num_attention_heads"]
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"config.json says that there are {heads!r} heads; expected a number that divides the width {width} of "
            "patch_embedding.weight. Put the two files of the same model together."
        )
    arguments.setdefault("attention_head_dim", width // heads)
    return to_plain(wan_config(arguments | {"mixer_plan": "attention-only"}))


def _check_fixed(config: Mapping[str, Any], width: int) -> None:
    """Compare what the original code's checkpoints may say with what they must say.

    Raises:
        UserError: naming the field.
    """
    for name, needed in {**_ORIGINAL_FIXED, "dim": width}.items():
        if config.get(name, needed) != needed:
            raise UserError(
                f"config.json says {name} = {config[name]!r}; expected {needed!r} for these tensors of Wan2.1 "
                "text-to-video. Put the two files of the same model together."
            )


def _axis(specs: Mapping[str, TensorSpec], name: str, axis: int) -> int:
    shape = specs[name].shape
    if len(shape) <= axis:
        raise UserError(f"{name} is {list(shape)}; expected {axis + 1} axes or more. Download the weights again.")
    return shape[axis]
