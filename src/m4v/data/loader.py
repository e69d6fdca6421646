"""Making things ahead of time in threads, in an order that does not depend on the threads."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from m4v.core.errors import UserError

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Call `make(step)` for each step in threads, a few steps ahead, and give the results in the order of the steps.

    Python threads suffice: decoding, rendering and resizing release the interpreter lock. An error in `make` is raised
    where its result would have come. Leaving the `with` block, by whatever way, cancels what has not begun and waits
    for the rest.

    Example:
        >>> with Prefetcher(lambda index: source.clip(index), range(len(source))) as batches:
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
