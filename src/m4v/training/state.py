"""Everything that changes while a stage trains, and its exact form in a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from m4v.checkpoints.shards import fill
from m4v.core.errors import UserError
from m4v.training.config import OptimConfig
from m4v.training.ema import Ema, named_parameters
from m4v.training.guard import Guard
from m4v.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from m4v.training.parallel import Parallel
from m4v.training.sharding import ShardedNetworks, local


class TrainState:
    """Weights, their average, optimiser moments and counters of one stage.

    Random draws are functions of (seed, purpose, step), so no generator state belongs to it.

    Args:
        modules: What is trained, by name.
        config: Optimiser settings.
        first_global_step: Steps taken by earlier stages of the run.
        sharded: Networks spread over ranks; none by default.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: OptimConfig,
        first_global_step: int,
        sharded: ShardedNetworks | None = None,
    ) -> None:
        self.sharded = sharded or ShardedNetworks(Parallel())
        self.parallel = self.sharded.parallel
        self.modules = dict(modules)
        self.config = config
        self.first_global_step = first_global_step
        self.step = 0
        self.items = 0
        self.seconds = 0.0
        self.guard: Guard | None = None
        self.optimizer = build_optimizer(self.modules, config)
        self.ema = Ema(self.modules, config.ema_decay)
        self.parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        # Read only when something is logged or saved, so that no step waits for the device.
        self._first_bad_step = torch.full((), -1.0, device=self.parameters[0].device)

    @property
    def global_step(self) -> int:
        """Steps of the whole run so far."""
        return self.first_global_step + self.step

    def zero_gradients(self) -> None:
        """Set gradients to zero where they are, sharded and whole ones alike."""
        torch._foreach_zero_([local(value.grad) for value in self.parameters if value.grad is not None])

    def note_finite(self, *values: Tensor) -> None:
        """Remember the present step if any value is NaN or infinite and no earlier step was bad."""
        is_finite = torch.isfinite(torch.stack([value.detach().float() for value in values])).all()
        is_first = (~is_finite) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first, float(self.step), self._first_bad_step)

    def first_bad_step(self) -> int | None:
        """Stage step of the first NaN or infinity, or None; waits for the device."""
        (latest,) = self.parallel.largest(self._first_bad_step.item())
        step = int(latest)
        return None if step < 0 else step

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Parts of a checkpoint."""
        return {
            "weights": {name: value.detach() for name, value in named_parameters(self.modules).items()},
            "ema": dict(self.ema.shadow),
            "optimizer": optimizer_tensors(self.optimizer, self.modules),
        }

    def counters(self) -> dict[str, Any]:
        """Counters of a checkpoint."""
        return {
            "stage_step": self.step,
            "first_global_step": self.first_global_step,
            "items": self.items,
            "seconds": self.seconds,
            "guard": {} if self.guard is None else self.guard.state(),
        }

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `counters` gave.

        Raises:
            UserError: if the tensors belong to a model of another configuration.
        """
        copy_weights(self.modules, tensors["weights"])
        self.ema.load(tensors["ema"])
        load_optimizer_tensors(self.optimizer, self.modules, tensors.get("optimizer", {}))
        self.step = int(counters["stage_step"])
        self.first_global_step = int(counters["first_global_step"])
        self.items = int(counters["items"])
        self.seconds = float(counters["seconds"])
        if self.guard is not None:
            self.guard.load(counters.get("guard", {}))


@torch.no_grad()
def copy_weights(modules: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Copy `module/parameter` tensors into modules; every parameter must be there with its shape.

    Raises:
        UserError: naming the first parameters that are missing or have another shape.
    """
    named = named_parameters(modules)
    bad = [name for name, value in named.items() if name not in weights or weights[name].shape != value.shape]
    if bad:
        raise UserError(
            f"The checkpoint does not fit this model: {len(bad)} tensors are missing or of another shape "
            f"({', '.join(bad[:3])}). Use the recipe and settings it was trained with, or another run folder."
        )
    fill(named, weights)
