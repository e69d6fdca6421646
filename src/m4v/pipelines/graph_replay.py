"""Repeated evaluations of a network as CUDA graphs, for sequences so short that launching costs more than computing.

A low pyramid level has some hundred tokens, for which the GPU needs a few milliseconds and the host, launching a
thousand kernels, three times as long. The first evaluation of a level runs as usual and so prepares everything that is
prepared once; the second is recorded; from then on one launch repeats the record on new latents and timesteps. The same
kernels run on the same numbers, so that results are equal bit for bit.
"""

import functools
import gc
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

logger = logging.getLogger(__name__)

Evaluation = Callable[[Tensor, Tensor], Tensor]
"""Velocity of latents at timesteps, one per row of the network's batch; all else is fixed."""

MAX_GRAPH_TOKENS = 8192
"""Of a batch, history included. With more, the GPU is busy for longer than the host takes to launch its work."""

_POOL_GROWTH = 512 * 2**20


class Recorder(Protocol):
    """Records device operations."""

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Run a function in recording.

        Returns:
            What repeats the record and returns the tensor that the function returned, with its new content.
        """

    def trim(self) -> None:
        """Give back memory that has piled up; no record is alive."""

    def close(self) -> None:
        """Give back all memory; no record is alive."""


class CudaRecorder:
    """Records CUDA graphs that share their memory.

    `torch.cuda.graph` would synchronise, collect garbage and empty the allocator's cache at each of the many captures
    of a video, which costs more than the graphs save; hence the calls below it.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        # While one graph lives, the pool does: a new capture may not use a pool whose last graph is gone.
        self._anchor: Callable[[], Tensor] | None = None
        self._grown = 0

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a function; it must already have run once, and must not synchronise."""
        if self._anchor is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._anchor = self._capture(lambda: torch.zeros(1, device=self._device))
        before = torch.cuda.memory_reserved(self._device)
        replay = self._capture(function)
        self._grown += max(torch.cuda.memory_reserved(self._device) - before, 0)
        return replay

    def trim(self) -> None:
        """Begin another pool once this one has grown: levels differ in size, so that old blocks seldom fit."""
        if self._grown > _POOL_GROWTH:
            self.close()

    def close(self) -> None:
        """Give the pool back."""
        if self._anchor is not None:
            self._anchor, self._pool, self._grown = None, None, 0
            torch.cuda.empty_cache()

    def _capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        stream, current = _capture_stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        collects = gc.isenabled()
        gc.disable()  # device objects that are collected during a capture invalidate it
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    output = function()
                finally:
                    graph.capture_end()
        finally:
            if collects:
                gc.enable()
        current.wait_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: libraries keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)


class GraphReplay:
    """The records of one video; at most those of one pyramid level are alive at a time.

    Args:
        network: What is evaluated; with hooks, which replaying would not call, it is left alone.
        recorder: Makes the records.
        max_cells: Latent cells of a batch, history included, beyond which launching is no longer what takes the time.
        min_evaluations: Fewer do not pay for the recording.
    """

    def __init__(self, network: nn.Module, recorder: Recorder, *, max_cells: int, min_evaluations: int = 5) -> None:
        self._network = network
        self._recorder = recorder
        self._max_cells = max_cells
        self._min_evaluations = min_evaluations
        self._evaluations: list[_Replayed] = []
        self._has_failed = False

    def replaying(self, evaluate: Evaluation, *, history_cells: int, num_evaluations: int) -> Evaluation:
        """Replace an evaluation by one that is replayed from its second call on, if that pays and is allowed.

        Args:
            evaluate: Returns a new tensor and changes nothing else; always called with tensors of the same shapes.
            history_cells: Latent cells of its batch besides those of the latents it is called with.
            num_evaluations: How often it will be called.
        """
        room = self._max_cells - history_cells
        pays = room > 0 and num_evaluations >= self._min_evaluations
        if self._has_failed or not pays or torch.is_grad_enabled() or has_hooks(self._network):
            return evaluate
        replayed = _Replayed(evaluate, self._record, room)
        self._evaluations.append(replayed)
        return replayed

    def end_level(self) -> None:
        """Drop the records of a level; its evaluations run as usual if they are called again."""
        for evaluation in self._evaluations:
            evaluation.end()
        self._evaluations.clear()
        self._recorder.trim()

    def close(self) -> None:
        """Drop all records, and give their memory back."""
        self.end_level()
        self._recorder.close()

    def _record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor] | None:
        if self._has_failed:
            return None
        try:
            return self._recorder.record(function)
        except RuntimeError as error:
            self._has_failed = True
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("CUDA graphs are off for this video, which takes longer: recording failed (%s).", reason)
            return None


class _Replayed:
    """An evaluation that is recorded at its second call, unless its batch has more than `max_cells` cells."""

    def __init__(
        self,
        evaluate: Evaluation,
        record: Callable[[Callable[[], Tensor]], Callable[[], Tensor] | None],
        max_cells: int,
    ) -> None:
        self._evaluate = evaluate
        self._record = record
        self._max_cells = max_cells
        self._is_prepared = self._has_ended = False
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], Tensor] | None = None

    def __call__(
        self, latents: Float[Tensor, "b c t h w"], timesteps: Float[Tensor, " rows"]
    ) -> Float[Tensor, "b c t h w"]:
        if self._has_ended or not self._is_prepared:
            self._is_prepared = True
            self._has_ended |= len(timesteps) * latents[0, 0].numel() > self._max_cells
            return self._evaluate(latents, timesteps)
        if self._replay is None:
            inputs = latents.clone(), timesteps.clone()
            self._replay = self._record(lambda: self._evaluate(*inputs))
            if self._replay is None:
                self._has_ended = True
                return self._evaluate(latents, timesteps)
            self._inputs = inputs
        assert self._inputs is not None
        for held, given in zip(self._inputs, (latents, timesteps), strict=True):
            if held.shape != given.shape or held.dtype != given.dtype:
                return self._evaluate(latents, timesteps)
            held.copy_(given)
        # A copy, for the next replay writes to the same memory.
        return self._replay().clone()

    def end(self) -> None:
        """Let go of the record."""
        self._has_ended = True
        self._replay = self._inputs = None


def has_hooks(network: nn.Module) -> bool:
    """Whether anything beside the modules takes part in an evaluation: offload, caches, casting, a user's own hooks."""
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return True
    return any(
        bool(module._forward_hooks)
        or bool(module._forward_pre_hooks)
        or hasattr(module, "_hf_hook")
        or bool(getattr(getattr(module, "_diffusers_hook", None), "hooks", None))  # an empty registry is usual
        for module in network.modules()
    )
