"""Making training batches ahead of time in threads, in an order that does not depend on the threads."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import UInt8

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.data.clip import Clip
from m4v.data.drops import describe_drops
from m4v.data.sampler import indices_for_step
from m4v.data.source import ClipSource, UnusableClip

Item = TypeVar("Item")
_MAX_SUBSTITUTES = 20


class Prefetcher(Generic[Item]):
    """Call `make(step)` for each step in threads, a few steps ahead, and give the results in the order of the steps.

    Python threads suffice: decoding, rendering and resizing release the interpreter lock. An error in `make` is raised
    where its result would have come. Leaving the `with` block, by whatever way, cancels what has not begun and waits
    for the rest.

    Example:
        >>> with Prefetcher(lambda step: load_batch(source, seed, step, 8), range(start, stop)) as batches:
        ...     for batch in batches: ...
    """

    def __init__(
        self, make: Callable[[int], Item], steps: Iterable[int], *, num_threads: int = 2, depth: int | None = None
    ) -> None:
        """Prepare; threads start with the `with` block.

        Args:
            make: Pure function of the step, called from several threads.
            steps: Steps in the order wanted; may be endless.
            num_threads: How many are made at the same time, at least 1.
            depth: How many may be under way or waiting, at least 1; by default two per thread.
        """
        if num_threads < 1 or (depth is not None and depth < 1):
            raise UserError(f"num_threads is {num_threads} and depth {depth}; expected at least 1.")
        self._make = make
        self._steps = iter(steps)
        self._num_threads = num_threads
        self._depth = depth or 2 * num_threads

    def __enter__(self) -> Iterator[Item]:
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="m4v-prefetch")
        return self._results()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _results(self) -> Iterator[Item]:
        pending: deque[Future[Item]] = deque()
        while True:
            for step in itertools.islice(self._steps, self._depth - len(pending)):
                pending.append(self._pool.submit(self._make, step))
            if not pending:
                return
            yield pending.popleft().result()


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal length.

    Attributes:
        frames: Their pictures.
        captions: Per clip, its alternative captions.
        sources: Where each comes from.
        drops: Unusable clips that others took the place of.
    """

    frames: UInt8[np.ndarray, "b t h w 3"]
    captions: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    drops: tuple[UnusableClip, ...]


def load_batch(source: ClipSource, seed: int, step: int, batch_size: int) -> ClipBatch:
    """Make the batch of one training step, as `indices_for_step` orders it.

    In the place of an unusable clip comes another, drawn from (seed, step, place): the batch stays a pure function.

    Raises:
        UserError: if clips differ in length, or nothing usable turned up after many draws.
    """
    clips: list[Clip] = []
    drops: list[UnusableClip] = []
    for place, index in enumerate(indices_for_step(seed, step, batch_size, len(source))):
        clips.append(_usable_clip(source, int(index), (seed, step, place), drops))
    lengths = sorted({len(clip.frames) for clip in clips})
    if len(lengths) > 1:
        raise UserError(
            f"One batch holds clips of {', '.join(map(str, lengths))} frames; ask the source for one length "
            "(min_frames equal to num_frames, images apart from videos)."
        )
    return ClipBatch(
        frames=np.stack([clip.frames for clip in clips]),
        captions=tuple(clip.captions for clip in clips),
        sources=tuple(clip.source for clip in clips),
        drops=tuple(drops),
    )


def _usable_clip(source: ClipSource, index: int, key: tuple[int, int, int], drops: list[UnusableClip]) -> Clip:
    seed, step, place = key
    for attempt in range(_MAX_SUBSTITUTES):
        try:
            return source.clip(index)
        except UnusableClip as drop:
            drops.append(drop)
            index = fold_seed(seed, "substitute", step, place, attempt) % len(source)
    raise UserError(
        f"No usable clip among {_MAX_SUBSTITUTES} drawn for step {step}:\n{describe_drops(drops)}\n"
        "Check the data set with: m4v data check DIR"
    )
