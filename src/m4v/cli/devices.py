"""Device and precision flags to torch values."""

import os
from typing import Literal

import torch

from m4v.core.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def use_all_cores() -> None:
    """Let torch compute on every core this process may use, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(cores or 1)


def pick_device(name: str) -> torch.device:
    """Find the device a flag names; `auto` is the fastest present.

    Raises:
        UserError: if this machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_present in present.items() if is_present)
    if not present[name]:
        usable = ", ".join(kind for kind, is_present in present.items() if is_present)
        raise UserError(f"This machine has no {name} device that torch can use; usable: {usable}.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Find the precision a flag names; `auto` is bfloat16 on CUDA and float32 elsewhere, where it is faster."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
