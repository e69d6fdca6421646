"""Where a pipeline's networks live while it runs: on the device, or in main memory until they are needed."""

from typing import Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from m4v.core.errors import UserError

OffloadLevel = Literal["none", "model", "sequential"]


def check_offload(level: OffloadLevel, device: torch.device) -> None:
    """Check that there is somewhere to offload from; needs no model yet.

    Raises:
        UserError: if networks are to be offloaded but the device is the CPU, whose memory they would not leave.
    """
    if level != "none" and device.type == "cpu":
        raise UserError(
            f"Offload {level!r} keeps networks in main memory until an accelerator needs them, but the device is the "
            "CPU. Leave offload out, or choose an accelerator as device."
        )


def place(pipeline: DiffusionPipeline, level: OffloadLevel, device: torch.device) -> None:
    """Put a pipeline on a device at one of three levels of memory saving.

    Args:
        pipeline: Loaded in main memory.
        level: "none": everything stays on the device. "model": one network at a time (about as fast). "sequential":
            one layer at a time (least memory, slow).
        device: Where networks compute.

    Raises:
        UserError: as `check_offload`.

    Source: the three levels of Pyramid-Flow's example scripts; the methods are diffusers' own.
    """
    check_offload(level, device)
    if level == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif level == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
