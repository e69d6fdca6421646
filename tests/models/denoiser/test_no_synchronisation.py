"""Nothing inside a step waits for the device or fetches from the host, once a layout and its prompts are known."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.models.denoiser.builders import debug_arguments, history_and_noisy, prompts, times

WAITING = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique")
DEVICE = torch.device("meta")  # stands for an accelerator: values cannot be read from it


class _Watch(TorchDispatchMode):
    """Collects operators that wait for the device, and those that meet a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        name = func._overloadpacket.__name__
        if name.startswith(WAITING) or any(tensor.device != DEVICE for tensor in tensors):
            self.found.append(str(func))
        return result


@contextmanager
def watched() -> Iterator[_Watch]:
    """Without gradients, as in generation."""
    with torch.no_grad(), _Watch() as watch:
        yield watch


def _inputs() -> tuple[list[LevelClip], Tensor, TextConditioning]:
    clips = [LevelClip(clip.latents.to(DEVICE), clip.level) for clip in history_and_noisy(dtype=torch.bfloat16)]
    return clips, times(dtype=torch.float32).to(DEVICE), prompts(dtype=torch.bfloat16).to(DEVICE)


OPTIONS: dict[str, dict[str, Any]] = {
    "all kinds of block": {"num_single_layers": 3, "mixer_plan": ["mm_dim", "attention", "parallel"]},
    "scan everywhere": {"dual_mixer": "mm_dim"},
    "scan over time, added positions": {"temporal_branch": {"mixer": "ssd"}, "mixer": {"positions": "added"}},
}


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_a_step_of_a_known_layout_stays_on_the_device(changes: dict[str, Any], is_fused: bool) -> None:
    with DEVICE:
        model = M4VTransformer3DModel(**debug_arguments(**changes)).to(torch.bfloat16).eval()
    if is_fused:
        model.fuse_projections()
    clips, timesteps, text = _inputs()
    with torch.no_grad():
        model(clips, timesteps, text)
    with watched() as watch:
        model(clips, timesteps + 1, text)
    assert watch.seen > 100
    assert watch.found == []


def test_the_watch_sees_what_it_is_for() -> None:
    with watched() as watch:
        torch.ones(3, device=DEVICE) * torch.tensor([1.0, 2.0, 3.0]).to(DEVICE)
    assert watch.found
    with watched() as watch, pytest.raises(RuntimeError):
        torch.ones((), device=DEVICE).item()
