"""AdamW over several modules, and its moments as plain named tensors for checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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
    """Build AdamW with a decayed and an undecayed group; fused, one kernel for all parameters."""
    named = {name: value for name, value in named_parameters(modules).items() if value.requires_grad}
    decayed = [value for name, value in named.items() if is_decayed(name, value)]
    others = [value for name, value in named.items() if not is_decayed(name, value)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
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
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(":", 1)
        parameter = named[name]
        optimizer.state[parameter][key] = value.to(parameter.device).clone()
