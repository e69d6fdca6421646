"""Stand-in for a device that holds a parameter only while the module that owns it runs."""

import torch
from torch import nn


def lend_parameters(model: nn.Module) -> None:
    """Fill each parameter with NaN except during the `forward` of its own module.

    This is what offloading by leaves or layer after layer does with memory: a parameter read at any other time would be
    on the wrong device.
    """
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        kept = {name: parameter.detach().clone() for name, parameter in own.items()}
        _fill(own)
        module.register_forward_pre_hook(lambda _, __, own=own, kept=kept: _give(own, kept))
        module.register_forward_hook(lambda _, __, ___, own=own: _fill(own))


def _give(own: dict[str, nn.Parameter], kept: dict[str, torch.Tensor]) -> None:
    for name, parameter in own.items():
        parameter.data.copy_(kept[name])


def _fill(own: dict[str, nn.Parameter]) -> None:
    for parameter in own.values():
        parameter.data.fill_(float("nan"))
