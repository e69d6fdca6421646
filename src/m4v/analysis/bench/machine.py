"""What the benchmark ran on, and how fast that machine copies and multiplies: the rates of every floor."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from m4v import __version__
from m4v.analysis.bench.clock import Clock, free_memory

_PACKAGES = ("torch", "triton", "diffusers", "mamba-ssm", "fla-core", "numpy")


@dataclass(frozen=True)
class Rates:
    """Measured, not printed on the box.

    Attributes:
        bytes_per_second: Read plus written by a large copy.
        flops_per_second: Of a large square matrix product in the precision of the benchmark.
    """

    bytes_per_second: float
    flops_per_second: float

    def floor_ms(self, num_bytes: float, flops: float) -> float:
        """Least time for work that must move so many bytes and do so many operations."""
        return max(num_bytes / self.bytes_per_second, flops / self.flops_per_second) * 1e3


def measure_rates(clock: Clock, dtype: torch.dtype, is_tiny: bool = False) -> Rates:
    """Copy memory far larger than any cache, and multiply matrices of two sizes; the best counts."""
    sides: tuple[int, ...]
    if is_tiny:
        num_bytes, sides = 2**22, (128,)
    elif clock.is_cuda:
        num_bytes, sides = 2**30, (4096, 8192)
    else:
        num_bytes, sides = 2**28, (2048, 3072)
    source = torch.empty(num_bytes, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copied = clock.median_ms(lambda: target.copy_(source))
    del source, target
    best = 0.0
    for side in sides:
        left, right = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
        best = max(best, 2 * side**3 / clock.median_ms(partial(torch.matmul, left, right)) * 1e3)
    free_memory()
    return Rates(2 * num_bytes / copied * 1e3, best)


def device_name(device: torch.device) -> str:
    """Name for people and file names."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else device.type


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Device, versions, commit and date, as JSON types."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"m4v": __version__, **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit() or f"version {__version__}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["cuda"] = torch.version.cuda
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["multiprocessors"] = properties.multi_processor_count
    return facts


def _version(name: str) -> str | None:
    if name == "torch":
        return str(torch.__version__)  # with the CUDA version, unlike the package's metadata
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree that this module stands in, with a mark if files were changed."""
    folder = Path(__file__).resolve().parent
    root = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if root is None:
        return os.environ.get("M4V_COMMIT")
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = []
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
