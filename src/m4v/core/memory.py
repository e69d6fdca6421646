"""How much memory a computation has needed so far."""

import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use at any time since this process started.

    Args:
        device: A CUDA device: what torch allocated there. Any other: resident main memory of the process (a peak that
            includes libraries and weight files read through memory maps).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():
        # Not from getrusage, which on Linux starts from the peak of the parent that started this process.
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return _usage_peak()


def _usage_peak() -> int:
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
