"""Device and precision flags to torch values."""

import os
from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def use_all_cores() -> None:
    """Let torch compute on every core this process may use, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(cores or 1)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Find the precision a flag names; `auto` is bfloat16 on CUDA and float32 elsewhere, where it is faster."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
