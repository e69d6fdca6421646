"""Ranks of one run, as torchrun starts them: who they are, what they agree on, how a failure reaches all of them."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from m4v.core.errors import UserError
from m4v.training.parallel_config import ParallelConfig
from m4v.training.row_share import RowShare

# Rank 0 may sample videos or encode a dataset while the others wait.
_PATIENCE = timedelta(hours=6)
# How long a rank that lost its neighbours waits for the reason that one of them left.
_REASON_PATIENCE = timedelta(seconds=5)
_FAILURE = "m4v/failure"


def world_size() -> int:
    """Ranks that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among the ranks; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This process among the ranks of a run; made without arguments, it is alone and exchanges give its own values.

    Attributes:
        config: How work and memory are spread.
        rank: Number of this process.
        world: Number of processes.
        mesh: All ranks as one dimension of devices; unset when alone.
        control: Group on CPUs for small exchanges, with more patience than devices have.
        saving: Group of its own for checkpoints written in the background.
        sequence: The ranks that compute each sequence with this one; unset if it computes whole ones.
    """

    config: ParallelConfig = field(default_factory=ParallelConfig)
    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None
    sequence: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that reports and writes."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether networks are spread over the ranks instead of being repeated on each."""
        return self.world > 1 and self.config.shard

    @property
    def share(self) -> RowShare:
        """Rows of every batch that are computed here; the same for all ranks that share a sequence."""
        context = self.config.context
        return RowShare(rank=self.rank // context, world=self.world // context, accumulate=self.config.accumulate)

    @property
    def suffix(self) -> str:
        """What tells this rank's files from those of others; empty when alone."""
        return f"-rank-{self.rank}" if self.world > 1 else ""

    def largest(self, *values: float) -> tuple[float, ...]:
        """Largest of each value over the ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return tuple(tensor.tolist())

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_main(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier(group=self.control)

    @contextlib.contextmanager
    def on_main(self) -> Iterator[bool]:
        """Tell each rank whether it is to act; the others wait until rank 0 is done, and fail as it fails.

        Raises:
            UserError: on every rank, if rank 0 raised one.
        """
        problem: UserError | None = None
        try:
            yield self.is_main
        except UserError as error:
            problem = error
        reason = self.from_main(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        if reason is not None:
            raise UserError(reason)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 through first and the others after it, who then find what it wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


def place_of_rank(device: torch.device) -> torch.device:
    """The device of this rank: one GPU for each rank of a host.

    Raises:
        UserError: if there are fewer GPUs than ranks, or ranks cannot use this kind of device.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"{world_size()} ranks cannot train on {device}; use --device cuda or cpu with torchrun.")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"Rank {rank()} wants GPU {local}, but this host shows {torch.cuda.device_count()}; start torchrun with "
            f"--nproc-per-node {torch.cuda.device_count()}."
        )
    return torch.device("cuda", local)


@contextlib.contextmanager
def parallel_session(config: ParallelConfig, device: torch.device) -> Iterator[Parallel]:
    """Join the ranks that torchrun started for the duration; alone without it.

    When a rank fails, its reason is left where the others find it: they end with it instead of complaining that a
    neighbour went away.

    Args:
        config: How work and memory are spread.
        device: This rank's; see `place_of_rank`.

    Raises:
        UserError: if the ranks cannot be divided into groups that share a sequence, or with the reason of another
            rank's failure.
    """
    if world_size() % config.context:
        raise UserError(
            f"parallel.context is {config.context}, the number of ranks {world_size()}; it must be a multiple of "
            f"parallel.context. Start the run with torchrun --nproc-per-node {config.context}, or set it to 1."
        )
    if world_size() == 1:
        yield Parallel(config=config)
        return
    store, own_rank, world = next(iter(dist.rendezvous("env://")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=store, rank=own_rank, world_size=world
    )
    parallel = Parallel(
        config=config,
        rank=own_rank,
        world=world,
        mesh=init_device_mesh(device.type, (world,), mesh_dim_names=("data",)),
        control=dist.new_group(backend="gloo", timeout=_PATIENCE),
        saving=dist.new_group(backend="gloo", timeout=_PATIENCE),
        sequence=_sequence_group(config.context, world, device),
    )
    try:
        yield parallel
        # Leaving together: a rank that destroys its groups while another still talks makes that one abort.
        parallel.wait()
    except BaseException as error:
        reason = _leave_reason(store, own_rank, error)
        if reason is not None:
            raise UserError(reason) from error
        raise
    dist.destroy_process_group()


def _sequence_group(size: int, world: int, device: torch.device) -> dist.ProcessGroup | None:
    """Neighbouring ranks, which a host connects best, share a sequence."""
    if size == 1:
        return None
    return init_device_mesh(device.type, (world // size, size), mesh_dim_names=("data", "context")).get_group("context")


def _leave_reason(store: dist.Store, own_rank: int, error: BaseException) -> str | None:
    """Say why this rank fails, or find out whose failure it suffers from."""
    is_suffering = isinstance(error, RuntimeError) and not isinstance(error, torch.cuda.OutOfMemoryError | UserError)
    with contextlib.suppress(RuntimeError):  # the store goes with the launcher
        if is_suffering:
            with contextlib.suppress(dist.DistStoreError):
                store.wait([_FAILURE], _REASON_PATIENCE)
                return str(store.get(_FAILURE).decode())
        text = str(error) or type(error).__name__
        if store.add(f"{_FAILURE}/count", 1) == 1:
            store.set(_FAILURE, f"Rank {own_rank} failed: {text}")
    return None
