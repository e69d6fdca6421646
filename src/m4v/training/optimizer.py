"""AdamW over several modules, and its moments as plain named tensors for checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from m4v.checkpoints.shards import fill
from m4v.training.config import OptimConfig
from m4v.training.ema import named_parameters

# State-space parameters act through an exponential or a gate: decaying them towards zero changes time constants
# instead of regularising (Mamba-2 trains them without decay too).
_NEVER_DECAYED = frozenset({"A_log", "dt_bias", "D_skip"})


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: matrices only, never biases or the state-space A, dt and D."""
    leaf = name.replace("/", ".").rsplit(".", 1)[-1]
    return parameter.ndim >= 2 and leaf not in _NEVER_DECAYED and leaf != "bias"


def build_optimizer(modules: Mapping[str, nn.Module], config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW with decayed and undecayed groups; fused, one kernel for all parameters of a group.

    Parameters that are sharded and ones that every rank holds whole never share a group: no kernel takes both.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, value in named_parameters(modules).items():
        if value.requires_grad:
            groups.setdefault((not is_decayed(name, value), isinstance(value, DTensor)), []).append(value)
    return torch.optim.AdamW(
        [{"params": groups[kind], "weight_decay": 0.0 if kind[0] else config.weight_decay} for kind in sorted(groups)],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Moments and step counters under `module/parameter:key` names; empty before the first step."""
    return {
        f"{name}:{key}": value
        for name, parameter in named_parameters(modules).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` gave."""
    named = named_parameters(modules)
    states: dict[str, Tensor] = {}
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(":", 1)
        parameter = named[name]
        is_moment = value.shape == parameter.shape
        state = torch.empty_like(parameter) if is_moment else torch.empty_like(value, device=parameter.device)
        states[full_name] = optimizer.state[parameter][key] = state.detach()
    fill(states, tensors)
