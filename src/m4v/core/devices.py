"""Where tensors live: the device a name stands for."""

import torch

from m4v.core.errors import UserError


def choose_device(name: str) -> torch.device:
    """Resolve `auto` to the best device present.

    Raises:
        UserError: if the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # torch goes on with advice for its own developers
        raise UserError(f"Device {name!r} cannot be used here ({reason}). Use auto, cpu, cuda or mps.") from error
    return device
