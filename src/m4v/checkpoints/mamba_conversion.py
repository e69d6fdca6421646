"""A model folder with attention layers to one with state-space layers that start from their weights (Appendix D.2)."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from m4v.checkpoints.attention_to_mamba import MambaInitialisation, MixerPlace, mamba_recipes
from m4v.checkpoints.conversion_report import ConversionReport
from m4v.checkpoints.converted_folder import CONVERSION_RECORD, link_tree, read_record, require_new_target, write_record
from m4v.checkpoints.json_tables import read_json, write_json
from m4v.checkpoints.model_card import MODEL_CARD, TRAINING_FACTS, read_training_facts, write_model_card
from m4v.checkpoints.model_folder import read_model_index
from m4v.checkpoints.tensor_files import TensorSpec, open_tensors, write_shards
from m4v.checkpoints.tensor_recipes import Advance, Recipe, RenamedTensors, Tensors, make_tensors
from m4v.checkpoints.weights import compare_shapes
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.models.denoiser.config import DenoiserConfig, denoiser_config
from m4v.models.denoiser.mixer_plan import MixerKind, named_plan, resolve_plan
from m4v.models.denoiser.wan_config import WanConfig, wan_config

_NEW_FILES = ("transformer", MODEL_CARD, TRAINING_FACTS, CONVERSION_RECORD, "training_log.jsonl")


@dataclass(frozen=True)
class Base:
    """What differs between the two networks that can be converted.

    Attributes:
        library: Module of the network's class.
        class_name: The class, as `config.json` names it.
        pipeline: Class of the pipelines with this network.
        settings: Typed configuration from constructor arguments.
        blocks: Name of the layer list.
        mixer: Name of a layer's mixer.
        dual_blocks: Name of the list of dual-stream blocks, which only the pyramid base has.
    """

    library: str
    class_name: str
    pipeline: str
    settings: Callable[[dict[str, Any]], DenoiserConfig | WanConfig]
    blocks: str
    mixer: str
    dual_blocks: str | None = None

    def place(self, layer: int, kind: MixerKind) -> MixerPlace:
        """Where one layer keeps its mixers once it is of a kind."""
        block = f"{self.blocks}.{layer}."
        attention = f"{block}{self.mixer}."
        if kind == "parallel":
            return MixerPlace(block, attention, f"{attention}mm_dim.", f"{attention}attention.")
        return MixerPlace(block, attention, attention)

    def dual_place(self, layer: int) -> MixerPlace:
        """Where a dual-stream block keeps its attention, and its scan once it has one."""
        block = f"{self.dual_blocks}.{layer}."
        streams = {stream: f"{block}{stream}." for stream in ("text", "video")}
        return MixerPlace(block, streams["video"], f"{block}{self.mixer}.", streams=streams)

    @property
    def network_class(self) -> Any:
        """The network's class."""
        return getattr(import_module(self.library), self.class_name)

    @property
    def kept_in_float32(self) -> frozenset[str]:
        """Components of the names of tensors that the class never rounds."""
        return frozenset(self.network_class._keep_in_fp32_modules)

    def shapes(self, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Tensors of the network that constructor arguments describe, built without memory."""
        with torch.device("meta"):
            network = self.network_class(**arguments)
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def require_shapes(self, arguments: Mapping[str, Any], tensors: Tensors, where: Path) -> None:
        """Check that tensors are those of the network that constructor arguments describe.

        Raises:
            UserError: listing missing, unknown and differently shaped tensors by the names they have in the files.
        """
        own_names = tensors.own_names if isinstance(tensors, RenamedTensors) else {}
        difference = compare_shapes(
            {own_names.get(name, name): shape for name, shape in self.shapes(arguments).items()},
            {own_names.get(name, name): spec.shape for name, spec in tensors.specs.items()},
        )
        if difference:
            raise UserError(
                f"The weights in {where} do not fit together, or not to their config.json: tensors {difference}. Put "
                "the files of the same model together, or download them again."
            )


BASES = {
    base.class_name: base
    for base in (
        Base(
            "m4v.models.denoiser.pyramid",
            "M4VTransformer3DModel",
            "M4VPipeline",
            denoiser_config,
            "single_transformer_blocks",
            "mixer",
            "transformer_blocks",
        ),
        Base("m4v.models.denoiser.wan", "WanM4VTransformer3DModel", "WanM4VPipeline", wan_config, "blocks", "attn1"),
    )
}


@dataclass(frozen=True)
class MambaPlan:
    """A network with attention and what it becomes.

    Attributes:
        base: Which network.
        arguments: Constructor arguments of the result.
        places: Layers that change, by prefix.
        initialisation: How.
    """

    base: Base
    arguments: dict[str, Any]
    places: dict[str, MixerPlace]
    initialisation: MambaInitialisation

    @classmethod
    def of(cls, base: Base, arguments: Mapping[str, Any], initialisation: MambaInitialisation) -> "MambaPlan":
        """Work out which layers change; layers that are no longer attention are left as they are.

        Raises:
            UserError: if the plan changes nothing, or the settings of existing state-space layers differ from those of
                the new ones.
        """
        settings = base.settings(dict(arguments))
        wanted = resolve_plan(initialisation.plan, len(settings.kinds))
        kinds = tuple(new if old == "attention" else old for old, new in zip(settings.kinds, wanted, strict=True))
        num_dual = 0
        if initialisation.dual_mixer == "mm_dim":
            if not isinstance(settings, DenoiserConfig):
                raise UserError("dual_mixer is mm_dim, but the model has no dual-stream blocks; leave it out.")
            num_dual = settings.num_dual_layers if settings.dual_mixer == "attention" else 0
        if kinds == settings.kinds and not num_dual:
            raise UserError(
                f"The plan {initialisation.plan!r} changes no layer: the model's layers are {_described(kinds)}. "
                "Choose another plan."
            )
        mixer = replace(
            settings.mixer,
            qk_norm=True,
            positions="rope",
            state_dim=None,
            conv_activation=initialisation.conv_activation,
        )
        has_scans = set(settings.kinds) != {"attention"} or getattr(settings, "dual_mixer", "attention") != "attention"
        if has_scans and mixer != settings.mixer:
            raise UserError(
                f"The model's state-space layers have the settings {to_plain(settings.mixer)}; layers made from "
                f"attention need {to_plain(mixer)}. All layers share one setting: match --conv-activation, or start "
                "from a model with attention only."
            )
        named = isinstance(initialisation.plan, str) and kinds == named_plan(initialisation.plan, len(kinds))
        target = {
            **arguments,
            "mixer_plan": initialisation.plan if named else list(kinds),
            "mixer": to_plain(mixer),
        }
        if num_dual:
            target["dual_mixer"] = "mm_dim"
        base.settings(dict(target))
        places = [
            base.place(layer, new)
            for layer, (old, new) in enumerate(zip(settings.kinds, kinds, strict=True))
            if old != new
        ]
        places += [base.dual_place(layer) for layer in range(num_dual)]
        return cls(base, target, {place.block: place for place in places}, initialisation)

    def recipes(self, source: Tensors) -> Iterator[Recipe]:
        """One recipe per tensor of the result."""
        found, kept = source.specs, self.base.kept_in_float32

        def dtype_of(name: str) -> torch.dtype:
            """A tensor that the source lacks is like the values of its layer."""
            if name in found:
                return found[name].dtype
            block = ".".join(name.split(".")[:2]) + "."
            is_kept = kept & set(name.split("."))
            return torch.float32 if is_kept else found[f"{self.places[block].attention}to_v.weight"].dtype

        shapes = self.base.shapes(self.arguments)
        target = {name: TensorSpec(dtype_of(name), shape) for name, shape in shapes.items()}
        options = self.base.settings(self.arguments).mixer
        return mamba_recipes(source, target, self.places, options, self.initialisation)

    def record(self) -> dict[str, Any]:
        """What `conversion.json` says of the choices."""
        choices = to_plain(self.initialisation)
        return {**choices, "plan": self.arguments["mixer_plan"], "layers_changed": len(self.places)}


def constructor_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a `config.json` gives; unset ones mean the class's defaults."""
    return {key: value for key, value in config.items() if not key.startswith("_") and value is not None}


def convert_attention_to_mamba(
    source: Path,
    target: Path,
    initialisation: MambaInitialisation,
    *,
    max_shard_bytes: int = 5 * 1000**3,
    on_progress: Advance | None = None,
) -> ConversionReport:
    """Write a model folder whose attention layers became state-space layers; the rest is taken over bit for bit.

    Args:
        source: Model folder on either base.
        target: Folder to make.
        initialisation: Plan, map and seed.
        max_shard_bytes: Largest weights file.
        on_progress: Told how many tensors are written.

    Raises:
        UserError: if the source is incomplete or of another kind, the plan changes nothing, or the place cannot be
            written.

    Source: Appendix D.2.
    """
    index, config = read_model_index(source), read_json(source / "transformer" / "config.json")
    base = BASES.get(str(config.get("_class_name")))
    if base is None:
        raise UserError(
            f"{source / 'transformer'} holds a {config.get('_class_name')}; expected {' or '.join(BASES)}. Convert it "
            "with m4v convert pyramid-flow or m4v convert wan first."
        )
    require_new_target(source, target)
    arguments = constructor_arguments(config)
    plan = MambaPlan.of(base, arguments, initialisation)
    tensors = open_tensors(source / "transformer")
    base.require_shapes(arguments, tensors, source / "transformer")
    with atomic_path(target) as temporary:
        link_tree(source, temporary, skip=_NEW_FILES)
        (temporary / "transformer").mkdir()
        write_json(temporary / "transformer" / "config.json", {**config, **plan.arguments})
        write = functools.partial(write_shards, temporary / "transformer", max_shard_bytes=max_shard_bytes)
        report = make_tensors(plan.recipes(tensors), tensors, target, write, on_progress)
        record = {"conversion": "attention-to-mamba", **plan.record(), **report.to_plain()}
        facts = mamba_facts(plan, read_training_facts(source))
        write_model_card(temporary, target.resolve().name, index.get("defaults", {}), facts, base.pipeline)
        write_record(temporary, {**record, "source": read_record(source)})
    return report


def mamba_facts(plan: MambaPlan, source_facts: Mapping[str, Any]) -> dict[str, Any]:
    """Training facts of a converted model: what it came from, and that nothing was learned since."""
    return {
        "trained_since_conversion": False,
        "initialised_from_attention": plan.record(),
        **({"source": dict(source_facts)} if source_facts else {}),
    }


def _described(kinds: tuple[MixerKind, ...]) -> str:
    return kinds[0] if len(set(kinds)) == 1 else ", ".join(kinds)
