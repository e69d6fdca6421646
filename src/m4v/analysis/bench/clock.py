"""Time and memory of calls that are to be compared: warm-up, all sides in turn, medians."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from m4v.analysis.live_memory import LiveTensors

_GROUP_MS = 10.0
"""Calls shorter than this are timed in groups, so that the clock's own cost does not count."""
_MOST_CALLS = 50


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: Key in the report.
        calls: The same work on different inputs, taken in turn, so that no input stays in the cache.
        context: Opened around everything that is measured.
        works_per_call: How often a call does the work; more than once in recorded graphs.
    """

    name: str
    calls: Sequence[Callable[[], Any]]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    works_per_call: int = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out.

    Attributes:
        ms: Median milliseconds per unit of work, by name of the contender.
        problems: Why a contender has no time.
        peak_mib: Peak memory of the first call; on CPUs only, where first calls are like all others.
    """

    ms: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)


class Clock:
    """Measures on one device: by events on CUDA, by the processor's clock elsewhere.

    Args:
        device: Where the calls compute.
        rounds: How often every contender is measured; the median counts.
        seconds: Roughly the longest time for one contender; slow ones get fewer rounds, at least one after warm-up.
    """

    def __init__(self, device: torch.device, rounds: int = 9, seconds: float = 4.0) -> None:
        self.device = device
        self.rounds = rounds
        self.seconds = seconds

    @property
    def is_cuda(self) -> bool:
        """Whether events and graphs are to be had."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def compare(self, contenders: Sequence[Contender]) -> Comparison:
        """Measure all in turn, round by round; one that fails is reported and drops out."""
        result = Comparison()
        groups: dict[str, tuple[Contender, int, int]] = {}
        samples: dict[str, list[float]] = {}
        for contender in contenders:
            name = contender.name
            with self.reporting(result.problems, name):
                if not self.is_cuda:
                    result.peak_mib[name] = self.peak_bytes(contender) / 2**20
                calls, rounds, single = self._warm_up(contender)
                groups[name] = contender, calls, rounds
                # What takes longer than the limit is measured once after its warm-up.
                samples[name] = [] if rounds else [single]
        for number in range(self.rounds):
            for name, (contender, calls, rounds) in groups.items():
                if number < rounds and name not in result.problems:
                    with self.reporting(result.problems, name):
                        samples[name].append(self._group_ms(contender, calls))
        for name, values in samples.items():
            if name not in result.problems:
                result.ms[name] = statistics.median(values)
        return result

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Measure one call.

        Raises:
            RuntimeError: if it fails.
        """
        result = self.compare([Contender(name="call", calls=[call])])
        if result.problems:
            raise RuntimeError(result.problems["call"])
        return result.ms["call"]

    def record(self, contender: Contender) -> Contender:
        """Record the calls as one device graph, whose replay costs no launches.

        Raises:
            RuntimeError: if the calls cannot be recorded.
        """
        with contender.context():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    for call in contender.calls:
                        call()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in contender.calls:
                    call()
        works = len(contender.calls) * contender.works_per_call
        return replace(contender, calls=[graph.replay], works_per_call=works)

    def peak_bytes(self, contender: Contender) -> int:
        """Most memory that one call occupies on top of what is there before it."""
        gc.collect()
        with contender.context():
            if self.is_cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats(self.device)
                before = torch.cuda.memory_allocated(self.device)
                contender.calls[0]()
                torch.cuda.synchronize()
                return torch.cuda.max_memory_allocated(self.device) - before
            with LiveTensors() as live:
                contender.calls[0]()
            return live.peak

    def peaks_mib(self, contenders: Sequence[Contender], problems: Mapping[str, str]) -> dict[str, float]:
        """Peak memory of every contender that has no problem, in MiB."""
        peaks: dict[str, float] = {}
        for contender in contenders:
            if contender.name not in problems:
                with self.reporting({}, contender.name):
                    peaks[contender.name] = self.peak_bytes(contender) / 2**20
        return peaks

    @contextlib.contextmanager
    def reporting(self, problems: dict[str, str], name: str) -> Iterator[None]:
        """Turn a failure, of memory or any other, into an entry of the report; the rest goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a benchmark reports whatever a contender dies of
            problems[name] = describe_failure(error)
        if name in problems:  # outside the handler, whose traceback would keep tensors alive
            free_memory()

    def _warm_up(self, contender: Contender) -> tuple[int, int, float]:
        """Run once or more; returns calls per group, rounds, and milliseconds of one unit of work."""
        with contender.context():
            # On CPUs the call whose memory was watched has been the first already.
            for call in contender.calls if self.is_cuda else contender.calls[1:]:
                call()
            self.synchronize()
        per_work = self._group_ms(contender, 1)
        single = per_work * contender.works_per_call
        calls = len(contender.calls) if single * len(contender.calls) < 1e3 * self.seconds else 1
        if single < _GROUP_MS:
            calls = min(max(calls, round(_GROUP_MS / max(single, 1e-3))), _MOST_CALLS)
        group_seconds = single * calls / 1e3
        rounds = min(self.rounds, int(self.seconds / max(group_seconds, 1e-6)))
        return calls, (rounds if single > 1e3 * self.seconds else max(rounds, 1)), per_work

    def _group_ms(self, contender: Contender, count: int) -> float:
        calls = [contender.calls[number % len(contender.calls)] for number in range(count)]
        with contender.context():
            if self.is_cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                start.record()
                for call in calls:
                    call()
                end.record()
                torch.cuda.synchronize()
                total = start.elapsed_time(end)
            else:
                begin = time.perf_counter()
                for call in calls:
                    call()
                total = (time.perf_counter() - begin) * 1e3
        return total / (count * contender.works_per_call)


def describe_failure(error: Exception) -> str:
    """One line for the report."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {first}"[:300]


def free_memory() -> None:
    """Give back what dropped tensors held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
