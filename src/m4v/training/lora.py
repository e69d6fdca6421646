"""Low-rank adapters on a frozen denoiser, and new words on a frozen text encoder (LoRA, arXiv 2106.09685).

Adapters are PEFT's, put on through diffusers, so what is trained here loads into every diffusers program. The scan's
step sizes get none: there is one per head, fewer than a usual rank, and they act through an exponential in 32 bits.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY as _HEADER_KEY
from diffusers.utils.import_utils import is_peft_available
from torch import Tensor, nn

from m4v.checkpoints.weights import save_tensors
from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.training.lora_config import LoraConfig

ADAPTER_NAME = "default"
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
_PREFIX = "transformer"
_MARK = ".lora_"
_BASE = ".base_layer."

# Ends of the names of linear layers, by what they belong to.
SCAN_TARGETS = ("mixer.in_proj", "mlp_up", "joint_out", "to_z")
ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out", "to_out.0")
FEED_FORWARD_TARGETS = ("feed_forward.up", "feed_forward.down", "ffn.net.0.proj", "ffn.net.2")
DEFAULT_TARGETS = (*SCAN_TARGETS, *ATTENTION_TARGETS, *FEED_FORWARD_TARGETS)
"""Per-token projections of both bases: the scan's inputs and joint output (queries, keys, values and gate by their
Wan names where a scan replaced attention), attention of dual-stream blocks and temporal branches, feed-forward parts.
Not among them: step sizes, modulations, embeddings and the output layer, which are few and shared by all tokens."""


class Adapters(nn.Module):
    """View of a network in which only its adapters are parameters, under their full names.

    An optimiser, an average or a checkpoint made from this view holds adapters and nothing else. Parameters are looked
    up at each call, because sharding replaces them.

    Args:
        network: Carries adapters.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that the network is no part of this module

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the adapters' matrices by full name."""
        for name, parameter in self._network[0].named_parameters(prefix, recurse, remove_duplicate):
            if _MARK in name:
                yield name, parameter

    def train(self, mode: bool = True) -> "Adapters":
        """Switch the network itself, whose dropout of adapters depends on it."""
        self._network[0].train(mode)
        return super().train(mode)


def add_adapters(network: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a denoiser and put fresh adapters on it; the network computes what it did until they are trained.

    Args:
        network: A denoiser of either base.
        config: Rank, scale, targets.
        seed: Fixes the first matrices; global random state is left as it was.

    Raises:
        UserError: if PEFT is missing or a target is no layer of this network.
    """
    if not is_peft_available():
        raise UserError('LoRA needs the package peft. Install it with: pip install "m4v[lora]"')
    from peft import LoraConfig as PeftConfig

    targets = target_layers(network, config.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, "adapters"))
        peft_config = PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha or config.rank,  # fractions are fine
            lora_dropout=config.dropout,
            target_modules=targets,
        )
        network.requires_grad_(False)
        network.add_adapter(peft_config, adapter_name=ADAPTER_NAME)


def target_layers(network: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that get an adapter.

    Args:
        network: A denoiser without adapters.
        targets: Ends of names; none means `DEFAULT_TARGETS`.

    Raises:
        UserError: naming the target that is no linear layer, and what would be.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(_ends_with(name, target) for name in linears):
            ends = sorted({_end(name) for name in linears})
            raise UserError(
                f"lora.targets has {target!r}, but no linear layer of this denoiser ends with it. There are: "
                f"{', '.join(ends)}."
            )
    wanted = targets or DEFAULT_TARGETS
    return [name for name in linears if any(_ends_with(name, target) for target in wanted)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _end(name: str) -> str:
    """Last part of a name that is not a number, with what follows it."""
    match = re.search(r"[^.]*[A-Za-z_][^.]*(\.\d+)*$", name)
    return match.group() if match else name


def has_adapters(network: nn.Module) -> bool:
    """Whether a network carries adapters of this module's making."""
    return any(_MARK in name for name, _ in network.named_parameters())


@torch.no_grad()
def merged_weights(network: nn.Module) -> dict[str, Tensor]:
    """State of the network that a denoiser with adapters amounts to, on the CPU; the denoiser is left as it is.

    Args:
        network: Carries adapters; a network without any gives its own state.
    """
    merged: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if _MARK in name:
            continue
        value = tensor.detach().to("cpu", copy=True)
        if _BASE in name:
            module, part = name.split(_BASE)
            name = f"{module}.{part}"
            if part == "weight":
                layer: Any = network.get_submodule(module)
                value += layer.get_delta_weight(ADAPTER_NAME).to("cpu", value.dtype)
        merged[name] = value
    return merged


def merge_adapters(network: Any) -> Any:
    """Make a plain network on the CPU that computes what a denoiser with adapters does."""
    plain = type(network).from_config(network.config)
    plain.load_state_dict(merged_weights(network), strict=True)
    return plain.eval()


def save_adapters(path: Path, network: Any) -> Path:
    """Write the adapters as one file that `load_lora_weights` reads, with rank and alpha in its header.

    Args:
        path: The file; diffusers looks for `WEIGHTS_NAME` in a folder.
        network: Carries adapters.

    Returns:
        The file.

    Raises:
        UserError: if the place cannot be written.
    """
    from peft.utils import get_peft_model_state_dict

    settings: Any = network.peft_config[ADAPTER_NAME]
    facts = {
        "r": settings.r,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "target_modules": sorted(settings.target_modules),
    }
    header = json.dumps({f"{_PREFIX}.{name}": value for name, value in facts.items()}, sort_keys=True)
    tensors: Mapping[str, Tensor] = get_peft_model_state_dict(network, adapter_name=ADAPTER_NAME)
    save_tensors(path, {f"{_PREFIX}.{name}": value for name, value in tensors.items()}, {_HEADER_KEY: header})
    return path
