"""Exponential moving average of weights: what samples, exports and the next stage use."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from m4v.checkpoints.shards import fill
from m4v.training.sharding import local


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters of several modules under `module/parameter` names."""
    return {f"{name}/{key}": value for name, module in modules.items() for key, value in module.named_parameters()}


class Ema:
    """A 32-bit shadow of every parameter, updated after each optimiser step; of a sharded one, this rank's part.

    The decay is warmed up, min(decay, (1 + t) / (10 + t)), so that early weights are forgotten quickly.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.parameters = named_parameters(modules)
        self.shadow = {name: value.detach().float().clone() for name, value in self.parameters.items()}

    def decay_at(self, step: int) -> float:
        """Decay used after optimiser step `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the shadow towards the present weights."""
        torch._foreach_lerp_(
            [local(value) for value in self.shadow.values()],
            [local(value.detach()) for value in self.parameters.values()],
            1.0 - self.decay_at(step),
        )

    @torch.no_grad()
    def load(self, shadow: Mapping[str, Tensor]) -> None:
        """Replace the shadow by saved tensors of the same names."""
        fill(self.shadow, shadow)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Make the averaged weights the present ones, as at the end of a stage."""
        for name, value in self.parameters.items():
            value.copy_(self.shadow[name])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the modules, and the trained ones back afterwards."""
        kept = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(kept[name])
