"""Several processes that make one video together: who they are, and a pipeline whose denoiser they share.

Every process runs the whole loop with the same seed and prompt. The denoiser's sequences are split between them; text
encoder and autoencoder, which take a small part of the time, run on each. What the denoiser returns is the same bits
everywhere, so the processes stay together without talking about anything else.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from m4v.core.errors import UserError
from m4v.models.denoiser.sharded_context import shard_sequence


@dataclass(frozen=True)
class ProcessPlace:
    """This process among those that torchrun started; without torchrun it is alone.

    Attributes:
        rank: Number of the process.
        size: Number of processes.
        local_rank: Number of the process on this machine.
    """

    rank: int
    size: int
    local_rank: int

    @classmethod
    def from_environment(cls) -> "ProcessPlace":
        """What torchrun told this process."""
        numbers = (int(os.environ.get(name, default)) for name, default in _VARIABLES.items())
        return cls(*numbers)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


@contextmanager
def joined(place: ProcessPlace, device_type: str) -> Iterator[None]:
    """Join the processes for the duration; a process that is alone joins nothing.

    Args:
        place: This process.
        device_type: Where it computes; on CUDA each process of a machine takes a GPU of its own.

    Raises:
        UserError: if there are fewer GPUs than processes, or processes cannot work together on this kind of device.
    """
    if place.size == 1:
        yield
        return
    if device_type not in ("cpu", "cuda"):
        raise UserError(
            f"{place.size} processes cannot make a video together on {device_type}; use --device cpu or cuda."
        )
    if device_type == "cuda":
        num_gpus = torch.cuda.device_count()
        if place.local_rank >= num_gpus:
            raise UserError(
                f"Process {place.local_rank} of this machine finds {num_gpus} GPUs; each process needs one of its own. "
                f"Start at most {num_gpus} with --nproc-per-node, or use --device cpu."
            )
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # none leaves while another still talks
    finally:
        dist.destroy_process_group()


def share_denoiser(pipeline: Any, group: dist.ProcessGroup | None = None) -> None:
    """Let all processes of a group compute the sequences of a pipeline's denoiser together.

    Args:
        pipeline: The same on every process, placed on this one's device.
        group: Processes that make one video; None for all.

    Raises:
        UserError: if its denoiser cannot be split.
    """
    shard_sequence(pipeline.transformer, group)
    pipeline.use_cuda_graphs = False  # a record on one rank would wait for those that do not record
