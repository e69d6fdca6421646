"""What the parts of a pipeline need, and what they need together at each level of offloading."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class PartMemory:
    """Bytes that one network of a pipeline needs on the device.

    Attributes:
        weights: All parameters, those that stay in float32 counted as such.
        largest_layer: Parameters of the largest single layer: what sequential offload brings to the device at a time.
        activations: Most that tensors of the longest call occupy at once.
        tiled_activations: The same with tiled decoding; differs for the autoencoder only.
    """

    weights: int
    largest_layer: int
    activations: int
    tiled_activations: int


def part_memory(network: nn.Module, activations: int, tiled_activations: int | None = None) -> PartMemory:
    """Add a network's weights to what was found about its activations."""
    return PartMemory(
        weights=sum(parameter.nbytes for parameter in network.parameters()),
        largest_layer=max(
            sum(parameter.nbytes for parameter in module.parameters(recurse=False)) for module in network.modules()
        ),
        activations=activations,
        tiled_activations=activations if tiled_activations is None else tiled_activations,
    )


def peaks(parts: Mapping[str, PartMemory]) -> dict[str, dict[str, int]]:
    """Most bytes on the device at once, by level of offloading, without and with tiled decoding.

    - none: all weights, and the largest activations of any part, since parts run one after another;
    - model: the part for which weights and activations together are most;
    - sequential: the part for which its largest layer and activations together are most.
    """
    result = {}
    for offload in ("none", "model", "sequential"):
        result[offload] = {
            "untiled": _peak(parts, offload, "activations"),
            "tiled": _peak(parts, offload, "tiled_activations"),
        }
    return result


def _peak(parts: Mapping[str, PartMemory], offload: str, activations: str) -> int:
    if offload == "none":
        return sum(part.weights for part in parts.values()) + max(getattr(part, activations) for part in parts.values())
    held = "weights" if offload == "model" else "largest_layer"
    return max(getattr(part, held) + getattr(part, activations) for part in parts.values())


def cast_weights(network: Any, dtype: torch.dtype) -> None:
    """Give weights the precision that loading in `dtype` gives them: some stay in float32."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    if not hasattr(network, "from_config") and dtype != torch.float16:
        kept = set()  # transformers keeps them for float16 only, diffusers always
    for name, parameter in network.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
