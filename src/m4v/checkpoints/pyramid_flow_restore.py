"""Our attention-only model folder to a Pyramid-Flow checkpoint; what was converted before comes back byte for byte."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m4v.checkpoints.converted_folder import CONVERSION_RECORD, link_tree, read_record, require_new_target
from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.model_folder import read_model_index
from m4v.checkpoints.pyramid_flow import CONVERSION
from m4v.checkpoints.pyramid_flow_config import denoiser_arguments, denoiser_config_of, vae_arguments, vae_config_of
from m4v.checkpoints.pyramid_flow_names import TRAINING_PREFIX, denoiser_renaming
from m4v.checkpoints.pyramid_flow_root import PART_FOLDERS, VARIANTS, transformer_folder
from m4v.checkpoints.renaming import Renaming
from m4v.checkpoints.stored_files import StoredFiles
from m4v.checkpoints.tensor_files import TensorSource, open_tensors, write_shards
from m4v.checkpoints.weights import compare_shapes
from m4v.core.errors import UserError
from m4v.core.files import atomic_path, require_free_space
from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE

_UNRECORDED = StoredFiles({}, {})

Advance = Callable[[str, int, int], None]
"""Told the folder being written, how many tensors of it are written, and how many there are."""


@dataclass(frozen=True)
class RestorableNetwork:
    """One network under Pyramid-Flow's names, checked and ready to be written.

    Attributes:
        folder: Name of its folder in the checkpoint root.
        source: Our weights.
        own_names: Pyramid-Flow's name -> ours.
        config: Text of `config.json`; None if the original had none.
        original: How the original was stored; empty if nothing was recorded.
    """

    folder: str
    source: TensorSource
    own_names: Mapping[str, str]
    config: str | None
    original: StoredFiles

    def write(self, root: Path, on_progress: Advance | None) -> None:
        """Write weights and configuration into `root`; in the original's files where they can be made again."""
        folder = root / self.folder
        folder.mkdir()
        num_done = 0

        def read(name: str) -> Tensor:
            nonlocal num_done
            num_done += 1
            if on_progress is not None:
                on_progress(self.folder, num_done, len(self.own_names))
            return self.source.read(self.own_names[_plain(name)])

        if self.is_exact:
            self.original.writer(folder)(self.original.specs, read)
        else:
            write_shards(folder, {name: self.source.specs[own] for name, own in self.own_names.items()}, read)
        if self.config is not None:
            (folder / "config.json").write_bytes(self.config.encode())

    @property
    def is_exact(self) -> bool:
        """Whether the original's files can be made again, so that unchanged tensors give unchanged files."""
        needed = {_plain(name): spec for name, spec in self.original.specs.items()}
        return needed == {name: self.source.specs[own] for name, own in self.own_names.items()}


@dataclass(frozen=True)
class PyramidFlowRestoration:
    """A model folder of ours that can become a Pyramid-Flow checkpoint.

    Attributes:
        source: The model folder.
        networks: Denoiser and, if it is there, autoencoder.
        text_parts: Folders of text encoders and tokenizers, by the name in the root.
        notes: What cannot be as in the original, in sentences.
    """

    source: Path
    networks: tuple[RestorableNetwork, ...]
    text_parts: Mapping[str, Path]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, source: Path, variant: str | None = None) -> "PyramidFlowRestoration":
        """Check that a model folder is what Pyramid-Flow's code can open.

        Args:
            source: Model folder with attention only.
            variant: Which of `VARIANTS` to call it; None: as it was called before its conversion, else the first.

        Raises:
            UserError: naming the layers or settings that Pyramid-Flow does not know, or what is wrong with the folder.
        """
        index = read_model_index(source)
        if index.get("_class_name") != "M4VPipeline":
            raise UserError(f"{source} holds a {index.get('_class_name')}; only an M4VPipeline can go back.")
        record = read_record(source) or {}
        if record.get("conversion") != CONVERSION:
            record = {}
        originals = {
            part: StoredFiles.from_plain(plain, source / CONVERSION_RECORD)
            for part, plain in record.get("originals", {}).items()
        }
        chosen = variant or record.get("variant") or VARIANTS[0]
        networks = [_restorable_denoiser(source / "transformer", chosen, originals.get("transformer", _UNRECORDED))]
        if (source / "vae").is_dir():
            networks.append(_restorable_vae(source / "vae", originals.get("vae", _UNRECORDED)))
        text_parts = {
            name: source / part for part, name in PART_FOLDERS.items() if part != "vae" and (source / part).is_dir()
        }
        notes = [
            f"{network.folder} gets equal tensors in safetensors files with the usual names: the original files "
            "cannot be made again (torch files, dropped tensors, another precision, or no record of them)."
            for network in networks
            if not network.is_exact
        ]
        return cls(source, tuple(networks), text_parts, tuple(notes))

    def write(self, target: Path, on_progress: Advance | None = None) -> None:
        """Write the checkpoint root, whole or not at all.

        Args:
            target: New or empty folder.
            on_progress: Told after every tensor.

        Raises:
            UserError: if the place holds something, is full or cannot be written.
        """
        require_new_target(self.source, target)
        require_free_space(target, sum(network.source.nbytes for network in self.networks))
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for network in self.networks:
                network.write(temporary, on_progress)
            for name, folder in self.text_parts.items():
                link_tree(folder, temporary / name)


def _restorable_denoiser(folder: Path, variant: str, original: StoredFiles) -> RestorableNetwork:
    config = read_json(folder / "config.json")
    if config.get("_class_name") != M4VTransformer3DModel.__name__:
        raise UserError(f"{folder} holds a {config.get('_class_name')}, which Pyramid-Flow knows nothing of.")
    arguments = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    settings = denoiser_config(arguments)
    theirs = denoiser_config_of(settings)
    source = open_tensors(folder)
    renaming = denoiser_renaming(settings.num_dual_layers, settings.num_single_layers)
    renaming.require_ours(source.specs, str(folder))
    with torch.device("meta"):
        _check_shapes(M4VTransformer3DModel.from_config(config), source, folder)
    shapes = {name: source.specs[ours].shape for name, ours in renaming.theirs_to_ours.items()}

    def arguments_of(theirs: Mapping[str, Any]) -> dict[str, Any]:
        return denoiser_arguments(theirs, shapes)

    return RestorableNetwork(
        transformer_folder(variant),
        source,
        renaming.theirs_to_ours,
        _config_text(theirs, original, arguments_of),
        original,
    )


def _restorable_vae(folder: Path, original: StoredFiles) -> RestorableNetwork:
    with torch.device("meta"):
        module = CausalVideoVAE.from_config(read_json(folder / "config.json"))
    theirs = vae_config_of(module.dataclass_config)
    source = open_tensors(folder)
    own_names = {name: name for name in module.state_dict()}
    Renaming(own_names).require_ours(source.specs, str(folder))
    _check_shapes(module, source, folder)

    return RestorableNetwork(
        PART_FOLDERS["vae"], source, own_names, _config_text(theirs, original, vae_arguments), original
    )


def _config_text(
    theirs: Mapping[str, Any], original: StoredFiles, arguments_of: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> str | None:
    """Take the original's configuration (which may have been absent), unless it describes another network by now."""
    text = original.texts.get("config.json")
    try:
        if original != _UNRECORDED and arguments_of(json.loads(text) if text else {}) == arguments_of(theirs):
            return text
    except ValueError:  # it contradicts the tensors, or is no JSON any more
        pass
    return json.dumps(dict(theirs), indent=2, sort_keys=True) + "\n"


def _plain(name: str) -> str:
    return name.removeprefix(TRAINING_PREFIX)


def _check_shapes(module: torch.nn.Module, source: TensorSource, folder: Path) -> None:
    needed = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    difference = compare_shapes(needed, {name: spec.shape for name, spec in source.specs.items()})
    if difference:
        raise UserError(f"The weights in {folder} belong to another configuration than its config.json: {difference}.")
