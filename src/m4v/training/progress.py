"""What a run tells its caller while it works; the library draws nothing itself."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report.

    Attributes:
        phase: What is being done, for example `vae` or `render clips`.
        done: Finished parts.
        total: All parts of the phase.
        seconds_left: Estimated time to the end of the phase; unset while unknown.
        values: Latest metrics, if any.
        message: One line worth showing by itself, if any.
    """

    phase: str
    done: int
    total: int
    seconds_left: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Receiver of a caller who wants no reports."""


class Pace:
    """Estimates the time left of a phase from the parts done since it was made."""

    def __init__(self, done: int, total: int) -> None:
        self._start = time.monotonic()
        self._first = done
        self._total = total

    def seconds_left(self, done: int) -> float | None:
        """Seconds to go at the mean pace so far, or None before the first part."""
        if done <= self._first:
            return None
        elapsed = time.monotonic() - self._start
        return elapsed / (done - self._first) * (self._total - done)
