"""torch generators seeded by purpose and counter, so that no random state has to be saved or shared."""

import torch

from m4v.core.seeds import fold_seed


def generator_for(seed: int, *indices: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator for one purpose, for example `generator_for(seed, "noise", step)`."""
    return torch.Generator(device=device).manual_seed(fold_seed(seed, *indices))
