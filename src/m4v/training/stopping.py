"""Reasons to end a run early, noticed between steps so that a checkpoint is always whole."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


class StopSignal:
    """Collects the reasons to stop: a deadline, a step limit, Ctrl-C or a termination signal.

    Args:
        max_seconds: Wall-clock budget from now; None means none.
        max_steps: Most steps taken in all stages together by this process; None means no limit.
    """

    def __init__(self, max_seconds: float | None = None, max_steps: int | None = None) -> None:
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._steps_left = max_steps
        self._signal_name: str | None = None
        self._request: str | None = None

    def request(self, reason: str) -> None:
        """Ask for a stop before the next step; the first reason is kept."""
        self._request = self._request or reason

    def count_step(self) -> None:
        """Take note of one finished step."""
        if self._steps_left is not None:
            self._steps_left -= 1

    def reason(self) -> str | None:
        """Say why to stop now, or None to go on."""
        if self._signal_name is not None:
            return f"stopped by {self._signal_name}"
        if self._request is not None:
            return self._request
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "the time limit is reached"
        if self._steps_left is not None and self._steps_left <= 0:
            return "the step limit is reached"
        return None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a reason; a second one acts as usual.

        Python allows handlers in the main thread only; elsewhere the signals keep their meaning.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            self._signal_name = signal.Signals(number).name
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
