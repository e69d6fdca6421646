"""LoRA files of the pyramid denoiser: module names of this package, or those of Pyramid-Flow."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from m4v.checkpoints.pyramid_flow_names import denoiser_renaming
from m4v.core.errors import UserError, shorten

# What training programs put before the denoiser's own names, outermost first.
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "dit.")
_PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_B.bias")


def denoiser_lora(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None,
    modules: Collection[str],
    num_dual: int,
    num_single: int,
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Bring the tensors and the settings of a LoRA to the module names of a denoiser.

    Args:
        tensors: `<module>.lora_A.weight` and `<module>.lora_B.weight`, with any of the usual prefixes.
        metadata: Settings that came with them, as PEFT's `LoraConfig` takes them.
        modules: Names of the denoiser's linear layers.
        num_dual: Its dual-stream blocks.
        num_single: Its single-stream blocks.

    Returns:
        The same, without prefixes, under our names.

    Raises:
        UserError: if the tensors are no LoRA of this layout, or belong to layers the denoiser has not.
    """
    split = {name: _module_and_part(_without_prefix(name)) for name in tensors}
    strange = [name for name, (_, part) in split.items() if not part]
    if strange or not split:
        raise UserError(
            f"These are not LoRA weights in the layout of PEFT: {shorten(strange)}. Expected names that end in "
            f"{' or '.join(_PARTS[:2])}; convert the file first."
        )
    weights = denoiser_renaming(num_dual, num_single).theirs_to_ours
    table = {theirs.removesuffix(".weight"): ours.removesuffix(".weight") for theirs, ours in weights.items()}
    found = dict.fromkeys(module for module, _ in split.values())
    ours = {module: module if module in modules else table.get(module, module) for module in found}
    foreign = [module for module in found if ours[module] not in modules]
    if foreign:
        raise UserError(
            f"The LoRA changes layers that this denoiser has not: {shorten(foreign)}. A LoRA trained on attention "
            "layers fits a model that has them: load and fuse it there, and convert the result to Mamba afterwards."
        )
    renamed = {ours[module] + part: tensors[name] for name, (module, part) in split.items()}
    if metadata is None:
        return renamed, None
    return renamed, _renamed_settings(metadata, ours)


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _module_and_part(name: str) -> tuple[str, str]:
    return next(((name.removesuffix(part), part) for part in _PARTS if name.endswith(part)), (name, ""))


def _renamed_settings(metadata: Mapping[str, Any], ours: Mapping[str, str]) -> dict[str, Any]:
    """Settings that name modules: targets are spelled out, exceptions follow their module."""
    settings = {_without_prefix(key): value for key, value in metadata.items()}
    settings["target_modules"] = list(ours.values())
    for name in ("rank_pattern", "alpha_pattern"):
        if settings.get(name):
            settings[name] = {ours.get(_without_prefix(key), key): value for key, value in settings[name].items()}
    return settings
