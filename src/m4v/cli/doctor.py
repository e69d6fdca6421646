"""`m4v doctor`: what this installation can do, and what to install for the rest."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from m4v import __version__
from m4v.checkpoints.bundled import bundled_models
from m4v.cli.console import result
from m4v.cli.json_output import STANDARD_OUTPUT, write_json
from m4v.cli.verb import Action

_NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "numpy",
    "numba",
    "av",
    "pillow",
    "einops",
    "jaxtyping",
    "tyro",
    "rich",
)
_OPTIONAL = {
    "tensorboard": ("TensorBoard curves while training", 'pip install "m4v[train]"'),
    "peft": ("LoRA fine-tuning", 'pip install "m4v[lora]"'),
    "matplotlib": ("plots in reports", 'pip install "m4v[report]"'),
    "triton": ("fast kernels on NVIDIA GPUs (comes with torch for CUDA)", "install torch with CUDA"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Tell versions, devices, and what is missing and how to get it.

    Attributes:
        json: Write the report as JSON instead, to a file or, with - or no value, to standard output.
    """

    json: str | None = None


def run(arguments: DoctorArguments) -> None:
    """Examine the installation and report."""
    report = examine()
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.json != STANDARD_OUTPUT:
        for line in _lines(report):
            result(line)


def examine() -> dict[str, Any]:
    """Collect the facts, as JSON types."""
    return {
        "m4v": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _NEEDED},
        "optional": {
            name: {"version": _version(name), "gives": gives, "remedy": remedy}
            for name, (gives, remedy) in _OPTIONAL.items()
        },
        "devices": _devices(),
        "video": _video(),
        "bundled_models": {name: str(path) for name, path in bundled_models().items()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    if find_spec("torch") is None:
        return {}
    import torch

    cuda = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gib": round(torch.cuda.get_device_properties(index).total_memory / 2**30, 1),
            "scan": _scan(f"cuda:{index}"),
            "attention": _attention_kernels(index),
        }
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return {
        "cpu": {
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "scan": _scan("cpu"),
        },
        "cuda": cuda,
        "mps": torch.backends.mps.is_available(),
    }


def _scan(device: str) -> str:
    """Implementation of the state-space scan on a device, and why."""
    import torch

    from m4v.ops.scan_section.dispatch import describe_backend

    return describe_backend(torch.device(device))


def _attention_kernels(index: int) -> list[str]:
    """Kernels that torch's attention can take for heads of 64 in bfloat16; found by asking, not by running."""
    import torch
    from torch.backends import cuda

    with torch.cuda.device(index):
        heads = torch.empty(1, 1, 128, 64, dtype=torch.bfloat16, device=f"cuda:{index}")
        parameters = cuda.SDPAParams(heads, heads, heads, None, 0.0, False, False)
        checks = {
            "flash": cuda.can_use_flash_attention,
            "cuDNN": cuda.can_use_cudnn_attention,
            "efficient": cuda.can_use_efficient_attention,
        }
        found = [name for name, can_use in checks.items() if can_use(parameters, False)]
    return found + (["FlexAttention"] if find_spec("triton") is not None else [])


def _video() -> dict[str, Any]:
    """Write and read back two small frames, which is the only proof that video files work here."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from m4v.core.errors import UserError

    try:
        from m4v.media.video import probe, write_video

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.mp4"
            write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 8.0)
            return {"h264": probe(path).codec == "h264", "problem": None}
    except (ImportError, UserError) as error:
        return {"h264": False, "problem": str(error)}


def _lines(report: dict[str, Any]) -> list[str]:
    devices = report["devices"]
    lines = [
        f"m4v {report['m4v']}, Python {report['python']} ({report['executable']})",
        f"{report['platform']}, {report['cores']} cores",
        "",
        "packages",
    ]
    for name, found in report["packages"].items():
        lines.append(f"  {name:<13} {found or 'missing: pip install ' + name}")
    lines += ["", "optional"]
    for name, facts in report["optional"].items():
        lines.append(f"  {name:<13} {facts['version'] or 'not installed'} - {facts['gives']}")
        if facts["version"] is None:
            lines.append(f"  {'':<13} to get it: {facts['remedy']}")
    lines += ["", "devices"]
    if devices:
        lines.append(f"  cpu           {devices['cpu']['threads']} threads, {devices['cpu']['capability']}")
        lines.append(f"  {'':<13} scan: {devices['cpu']['scan']}")
        for gpu in devices["cuda"]:
            lines.append(f"  cuda          {gpu['name']}, {gpu['memory_gib']} GiB")
            lines.append(f"  {'':<13} scan: {gpu['scan']}")
            lines.append(f"  {'':<13} attention: {', '.join(gpu['attention']) or 'plain torch'}")
        lines += [] if devices["cuda"] else ["  cuda          none that torch can use"]
        lines.append(f"  mps           {'yes' if devices['mps'] else 'no'}")
    video = report["video"]
    lines += ["", f"video files     {'H.264 works' if video['h264'] else 'do not work: ' + str(video['problem'])}"]
    names = ", ".join(report["bundled_models"]) or "none"
    lines.append(f"bundled models  {names}")
    return lines


VERB = Action(DoctorArguments, run)
