"""Denoiser and autoencoder of a Pyramid-Flow checkpoint, checked against our classes before a value is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.pyramid_flow_config import denoiser_arguments, vae_arguments
from m4v.checkpoints.pyramid_flow_names import denoiser_renaming, plain_names, refuse_neighbours
from m4v.checkpoints.renaming import Renaming
from m4v.checkpoints.stored_files import StoredFiles
from m4v.checkpoints.tensor_files import TensorSource, open_tensors
from m4v.checkpoints.tensor_recipes import Recipe, taken
from m4v.checkpoints.weights import compare_shapes
from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE


@dataclass(frozen=True)
class ConvertedNetwork:
    """One network, checked and ready to be written.

    Attributes:
        module: The network itself, without memory for its weights.
        source: The original weights.
        recipes: One per tensor, in the network's order.
        original: How the weights were stored, for the way back; no headers if those files cannot be made again.
    """

    module: ModelMixin
    source: TensorSource
    recipes: tuple[Recipe, ...]
    original: StoredFiles

    @property
    def nbytes(self) -> int:
        """Bytes that the weights will take."""
        return sum(recipe.spec.nbytes for recipe in self.recipes)


def open_denoiser(weights: Path, config_path: Path | None, dtype: torch.dtype | None) -> ConvertedNetwork:
    """Read names, shapes and configuration of a denoiser.

    Args:
        weights: Its folder or file.
        config_path: Its `config.json`, if there is one.
        dtype: Precision to write it in; None keeps that of every tensor.

    Raises:
        UserError: naming what is wrong, missing or of another kind.
    """
    source = open_tensors(weights)
    stored, _ = plain_names(source.specs)
    config = read_json(config_path) if config_path else {}
    where = str(weights)
    refuse_neighbours(stored, config.get("_class_name"), where)
    arguments = denoiser_arguments(config, {name: source.specs[own].shape for name, own in stored.items()})
    renaming = denoiser_renaming(arguments["num_dual_layers"], arguments["num_single_layers"])
    renaming.require_theirs(stored, where)
    with torch.device("meta"):
        module = M4VTransformer3DModel(**arguments)
    own_to_stored = {ours: stored[theirs] for theirs, ours in renaming.theirs_to_ours.items()}
    return ConvertedNetwork(module, source, _recipes(module, source, own_to_stored, where, dtype), _stored(source))


def open_vae(folder: Path, dtype: torch.dtype | None) -> ConvertedNetwork:
    """Read names, shapes and configuration of an autoencoder.

    Args:
        folder: Where it lies.
        dtype: Precision to write it in; None keeps that of every tensor.

    Raises:
        UserError: naming what is wrong, missing or of another kind.
    """
    source = open_tensors(folder)
    config_path = folder / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    with torch.device("meta"):
        module = CausalVideoVAE(**vae_arguments(config))
    own_names = {name: name for name in module.state_dict()}
    Renaming(own_names).require_theirs(source.specs, str(folder))
    return ConvertedNetwork(module, source, _recipes(module, source, own_names, str(folder), dtype), _stored(source))


def _stored(source: TensorSource) -> StoredFiles:
    """Describe the files for the way back, which is exact if they are safetensors and hold this network alone."""
    folder = source.files[0].parent
    stored = StoredFiles.of(folder, source)
    index = source.index_path.name if source.index_path else None
    texts = {name: text for name, text in stored.texts.items() if name in ("config.json", index)}
    is_whole = source.is_safetensors and not plain_names(source.specs)[1]
    return StoredFiles(stored.headers if is_whole else {}, texts)


def _recipes(
    module: ModelMixin, source: TensorSource, own_to_stored: Mapping[str, str], where: str, dtype: torch.dtype | None
) -> tuple[Recipe, ...]:
    """Take every tensor over under its new name.

    Raises:
        UserError: if a shape is not that of the network.
    """
    needed = {own_to_stored[name]: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: source.specs[name].shape for name in needed}
    difference = compare_shapes(needed, found)
    if difference:
        raise UserError(
            f"The tensors of {where} do not fit together: {difference}. Download the files again, or put weights and "
            "config.json of the same model together."
        )
    recipes = (taken(name, source, own_to_stored[name]) for name in module.state_dict())
    return tuple(recipe if dtype is None else recipe.in_dtype(dtype) for recipe in recipes)
