"""Size of a network."""

from torch import nn


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters; works on the meta device."""
    return sum(parameter.numel() for parameter in module.parameters())
