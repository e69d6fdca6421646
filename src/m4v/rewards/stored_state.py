"""Weights of reward models read from local files, strictly: every tensor needed is there, and no other."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from m4v.core.errors import UserError, shorten

Network = TypeVar("Network", bound=nn.Module)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: if the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}. Give the folder that holds it.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}). Restore or download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a `.safetensors` file, or from a torch file without running the code it may hold.

    Raises:
        UserError: if the file is missing, damaged, needs unpickling of other objects, or holds no state dict.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects beside tensors, and opening those can run code. Save its state dict as "
            "safetensors where you trust the file, and give that."
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as weights ({reason}). Restore or download it again.") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict: expected tensors by name, or a table `state_dict` of them.")
    return {str(name): value for name, value in content.items()}


def load_strictly(network: Network, state: Mapping[str, Tensor], where: str) -> Network:
    """Copy tensors into a network, in its own precision; all of them must be there, with the right shape, and no other.

    Raises:
        UserError: naming what is missing, unknown or of another shape.
    """
    needed = network.state_dict()
    missing = [name for name in needed if name not in state]
    unknown = [name for name in state if name not in needed]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, needed {tuple(value.shape)}"
        for name, value in needed.items()
        if name in state and state[name].shape != value.shape
    ]
    parts = [
        f"{len(listed)} {what}: {shorten(listed)}"
        for what, listed in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if listed
    ]
    if parts:
        raise UserError(f"The weights in {where} do not fit {type(network).__name__}; {'; '.join(parts)}.")
    network.load_state_dict(dict(state), strict=True)
    return network
