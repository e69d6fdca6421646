"""What people see: notes and progress on standard error, results (paths, reports) on standard output.

Of several ranks that torchrun started, only the first one speaks.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

_PLAIN_INTERVAL_SECONDS = 10.0

Advance = Callable[[int, int], None]
"""Reports how many parts are done by now, and how many there are."""


def is_speaker() -> bool:
    """Whether this process reports: alone, or the first of the ranks that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Tell what is going on."""
    if is_speaker():
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def result(line: str) -> None:
    """Give a result, such as the path of a new file."""
    if is_speaker():
        print(line, flush=True)  # noqa: T201


@contextlib.contextmanager
def progress(description: str) -> Iterator[Advance]:
    """Show progress with time left: a bar on a terminal, now and then a line elsewhere."""
    if sys.stderr.isatty():
        with _bar(description) as advance:
            yield advance
    else:
        yield _lines(description)


@contextlib.contextmanager
def _bar(description: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(description: str) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_INTERVAL_SECONDS or done < 1:
            return
        last = now
        left = (now - start) / done * (total - done)
        say(f"{description}: {done} of {total}, {duration(left)} left")

    return advance


def duration(seconds: float) -> str:
    """Write a time span for people."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
