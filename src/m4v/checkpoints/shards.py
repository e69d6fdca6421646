"""Tensors of a checkpoint that several ranks wrote, read by any number of ranks."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor, distribute_tensor

SHARDS = "shards"
"""Folder of the ranks' files in a checkpoint."""


@torch.no_grad()
def fill(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded: every rank takes its own part, without a word to the others."""
    if isinstance(target, DTensor):
        part = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(whole)


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint's tensors lie in the files of several ranks."""
    return (folder / SHARDS).is_dir()


def read_shards(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, from a checkpoint written by any number of ranks.

    Args:
        folder: The checkpoint.
        targets: Tensors by `part/name`, filled in place. With several ranks, all of them must call this.
    """
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    with _quiet():
        dcp.load(
            dict(targets),
            storage_reader=reader,
            no_dist=not dist.is_initialized(),
        )


def shapes_of_shards(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Whole shapes and types of a checkpoint's tensors by `part/name`."""
    metadata = HuggingFaceStorageReader(str(folder / SHARDS)).read_metadata()
    return {
        name: (entry.size, entry.properties.dtype)  # type: ignore[union-attr]
        for name, entry in metadata.state_dict_metadata.items()
    }


def load_shards(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Read a whole checkpoint by part into main memory."""
    flat = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in shapes_of_shards(folder).items()}
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    with _quiet():
        dcp.load(flat, storage_reader=reader, no_dist=True)
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        part, rest = name.split("/", 1)
        states.setdefault(part, {})[rest] = value
    return states


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library warns that reading without ranks is unusual; here it is meant."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
