"""Reward models by the names that settings use."""

import importlib.resources
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from m4v.core.errors import UserError
from m4v.rewards.clip_score import load_clip_reward, load_hpsv2_reward
from m4v.rewards.protocol import RewardModel
from m4v.rewards.toybox_rewards import load_toybox_clip, load_toybox_quality

_Loader = Callable[[Path, torch.device | str], RewardModel]
_BUNDLED: dict[str, _Loader] = {"toybox-clip": load_toybox_clip, "toybox-quality": load_toybox_quality}
_STORED: dict[str, _Loader] = {"clip": load_clip_reward, "hpsv2": load_hpsv2_reward}


def bundled_rewards() -> Path:
    """Return the folder of the reward models inside the package."""
    return Path(str(importlib.resources.files("m4v"))) / "bundled" / "rewards"


def load_reward(spec: str, device: torch.device | str = "cpu") -> RewardModel:
    """Load a frozen reward model.

    Args:
        spec: `toybox-clip`, `toybox-quality`, or for local files `clip:PATH` or `hpsv2:PATH`.
        device: Where it computes.

    Raises:
        UserError: if there is no such reward, or its files are missing, damaged or of another network.
    """
    if spec in _BUNDLED:
        folder = bundled_rewards() / spec
        if not folder.is_dir():
            raise UserError(f"This installation carries no {spec}. Reinstall the package.")
        return _BUNDLED[spec](folder, device)
    kind, _, path = spec.partition(":")
    if kind not in _STORED or not path:
        known = ", ".join([*_BUNDLED, *(f"{name}:PATH" for name in _STORED)])
        raise UserError(f"There is no reward {spec!r}; expected one of {known}.")
    return _STORED[kind](Path(path), device)


def load_rewards(specs: Sequence[str], device: torch.device | str = "cpu") -> tuple[RewardModel, ...]:
    """Load several reward models and number those that share a name, so that logs can tell them apart.

    Raises:
        UserError: as `load_reward`.
    """
    rewards, seen = [], Counter[str]()
    for spec in specs:
        reward = load_reward(spec, device)
        seen[reward.name] += 1
        if seen[reward.name] > 1:
            reward.name = f"{reward.name}-{seen[reward.name]}"
        rewards.append(reward)
    return tuple(rewards)
