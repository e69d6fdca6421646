"""The toybox reward networks as scorers, and their folders: `config.json`, `model.safetensors` in bfloat16."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.models.text.tokenizer import build_tokenizer
from m4v.rewards.protocol import Sees
from m4v.rewards.stored_state import Network, load_strictly, read_json, read_state
from m4v.rewards.toybox_networks import (
    ToyboxClipConfig,
    ToyboxClipNetwork,
    ToyboxQualityConfig,
    ToyboxQualityNetwork,
    looked_at,
)

_MAX_WORDS = 48


class ToyboxClipReward:
    """Cosine between a clip and its caption, from -1 to 1.

    Args:
        network: Both towers.
        config: Its shape and vocabulary.
        tier: World that it was trained on.
    """

    name = "toybox-clip"
    sees: Sees = "clip"

    def __init__(self, network: ToyboxClipNetwork, config: ToyboxClipConfig, tier: str) -> None:
        self.tier = tier
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = caption_tokenizer(config)

    def __call__(self, frames: Float[Tensor, "b t 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score videos against their prompts."""
        ids, mask = tokenize_captions(self.tokenizer, prompts)
        caption = self.network.caption(ids.to(frames.device), mask.to(frames.device))
        return (self.network.video(looked_at(frames)) * caption).sum(dim=1)


class ToyboxQualityReward:
    """How much a clip looks like a clean render, from 0 to 1; the prompt does not matter.

    Args:
        network: The judge.
        tier: World that it was trained on.
    """

    name = "toybox-quality"
    sees: Sees = "clip"

    def __init__(self, network: ToyboxQualityNetwork, tier: str) -> None:
        self.tier = tier
        self.network = network.eval().requires_grad_(False)

    def __call__(self, frames: Float[Tensor, "b t 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score videos."""
        return torch.sigmoid(self.network(looked_at(frames)))


def caption_tokenizer(config: ToyboxClipConfig) -> PreTrainedTokenizerFast:
    """Make the tokenizer of the caption tower."""
    return build_tokenizer(config.words)


def tokenize_captions(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids of captions and the mask of real ones, both `b l`."""
    batch = tokenizer(list(captions), padding=True, truncation=True, max_length=_MAX_WORDS, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"].bool()


def save_network(folder: Path, network: nn.Module, config: Any, tier: str, facts: Mapping[str, Any]) -> Path:
    """Write a network's folder.

    Args:
        folder: Made, or replaced.
        network: Its weights are rounded to bfloat16.
        config: Its shape.
        tier: World that it was trained on.
        facts: What was measured after training; kept in `config.json`.

    Raises:
        UserError: if the place cannot be written.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        state = {
            name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in network.state_dict().items()
        }
        save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "model.safetensors").chmod(0o644)
        content = {"shape": to_plain(config), "tier": tier, "facts": dict(facts)}
        (temporary / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def load_toybox_clip(folder: Path, device: torch.device | str = "cpu") -> ToyboxClipReward:
    """Load the caption-video encoder.

    Raises:
        UserError: if a file is missing, damaged or of another network.
    """
    shape, tier = _shape_and_tier(folder)
    config = from_plain(ToyboxClipConfig, shape)
    network = ToyboxClipNetwork(config, len(caption_tokenizer(config)))
    return ToyboxClipReward(_filled(network, folder).to(device), config, tier)


def load_toybox_quality(folder: Path, device: torch.device | str = "cpu") -> ToyboxQualityReward:
    """Load the quality judge.

    Raises:
        UserError: if a file is missing, damaged or of another network.
    """
    shape, tier = _shape_and_tier(folder)
    network = ToyboxQualityNetwork(from_plain(ToyboxQualityConfig, shape))
    return ToyboxQualityReward(_filled(network, folder).to(device), tier)


def _shape_and_tier(folder: Path) -> tuple[Mapping[str, Any], str]:
    content = read_json(folder / "config.json")
    shape, tier = content.get("shape"), content.get("tier")
    if not isinstance(shape, dict) or not isinstance(tier, str):
        raise UserError(f"{folder / 'config.json'} has no `shape` and `tier`; it is not a toybox reward model.")
    return shape, tier


def _filled(network: Network, folder: Path) -> Network:
    return load_strictly(network, read_state(folder / "model.safetensors"), str(folder))
