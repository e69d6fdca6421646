"""Tensors of a checkpoint that several ranks wrote, read by any number of ranks."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

SHARDS = "shards"
"""Folder of the ranks' files in a checkpoint."""


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Give tensors, which may be sharded, their stored values: every rank takes its own, without a word to the others.

    Args:
        targets: By name; filled in place.
        source: Whole tensors of the same shapes, or a part of a checkpoint to read them from.
    """
    if isinstance(source, ShardedPart):
        source.read_into(targets)
        return
    for name, target in targets.items():
        whole = source[name]
        if isinstance(target, DTensor):
            part = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
            target.to_local().copy_(part.to_local())
        else:
            target.copy_(whole)


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint's tensors lie in the files of several ranks."""
    return (folder / SHARDS).is_dir()


class ShardedPart(dict[str, Tensor]):
    """One part of a checkpoint that has not been read yet: outlines of its whole tensors, on the device `meta`.

    Args:
        folder: The checkpoint.
        part: Name of the part.
    """

    def __init__(self, folder: Path, part: str) -> None:
        super().__init__()
        self.folder = folder
        self.part = part

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Read what tensors of these names hold here: of a sharded one this rank's own piece and no more."""
        reader = HuggingFaceStorageReader(str(self.folder / SHARDS))
        flat = {f"{self.part}/{name}": value.detach() for name, value in targets.items()}
        with _quiet():
            # Each rank plans for itself: all find the same files, and none waits for another.
            dcp.load(flat, storage_reader=reader, no_dist=True)

    def load(self) -> dict[str, Tensor]:
        """Read all of it, whole, into main memory."""
        whole = {name: torch.empty_like(outline, device="cpu") for name, outline in self.items()}
        self.read_into(whole)
        return whole


def open_shards(folder: Path) -> dict[str, ShardedPart]:
    """Find out what a checkpoint holds, without reading its tensors."""
    parts: dict[str, ShardedPart] = {}
    metadata = HuggingFaceStorageReader(str(folder / SHARDS)).read_metadata()
    for full_name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), full_name
        part, name = full_name.split("/", 1)
        outline = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        parts.setdefault(part, ShardedPart(folder, part))[name] = outline
    return parts


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
