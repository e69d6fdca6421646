"""Functions run by several processes at once, joined by gloo on this machine."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_SECONDS = 100


def on_ranks(function: Callable[..., Any], num_ranks: int, *arguments: Any) -> list[Any]:
    """Call a module-level function as `function(*arguments)` on every rank.

    Processes are forked from a server that has the heavy imports behind it: a test starts in a fraction of a second.

    Returns:
        What each rank returned; tensors are best returned as they are, on the CPU.

    Raises:
        AssertionError: with the tracebacks of the ranks that failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "m4v.models.denoiser.sharded_context"])
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe(duplex=False)
            work = (theirs, function, rank, num_ranks, str(Path(folder) / "store"), arguments)
            process = context.Process(target=_run, args=work, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        outcomes = [_outcome(pipe) for pipe in pipes]
        for process in processes:
            process.join(5)
            process.kill()
    failures = [f"rank {rank}:\n{text}" for rank, (succeeded, text) in enumerate(outcomes) if not succeeded]
    assert not failures, "\n".join(failures)
    return [value for _, value in outcomes]


def _outcome(pipe: Connection) -> tuple[bool, Any]:
    if not wait([pipe], timeout=_SECONDS):
        return False, f"no answer within {_SECONDS} s"
    try:
        answer: tuple[bool, Any] = pickle.loads(pipe.recv_bytes())
    except EOFError:
        return False, "ended without an answer"
    return answer


def _run(
    pipe: Connection, function: Callable[..., Any], rank: int, num_ranks: int, store: str, arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=_SECONDS / 2),
        )
        answer = (True, function(*arguments))
    except BaseException:  # noqa: BLE001 - whatever it is, the test has to show it
        answer = (False, traceback.format_exc())
    # Plain bytes: tensors would otherwise travel as handles that die with their process.
    pipe.send_bytes(pickle.dumps(answer))
    pipe.close()
    if dist.is_initialized() and answer[0]:
        dist.barrier()
        dist.destroy_process_group()
