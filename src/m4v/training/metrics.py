"""Where numbers go while training: a JSON line per entry always, TensorBoard when it is installed."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from m4v.core.errors import UserError


class MetricSink(Protocol):
    """Receiver of named numbers at a step."""

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Record values at a global step; steps never decrease."""

    def close(self) -> None:
        """Flush and release files."""


class JsonlSink:
    """Appends one JSON object per entry to `metrics.jsonl`; lines after the resumed step are dropped first."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= resumed_step]
        self._file = path.open("w")
        self._file.writelines(f"{line}\n" for line in kept)
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # A line cut off by a crash: never kept.
        return float("inf")


class TensorBoardSink:
    """Writes scalars as TensorBoard events."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Add each number as a scalar; text is left to the JSON lines."""
        for name, value in values.items():
            if not isinstance(value, str):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class ServiceSink:
    """Logs to a library with the calls of wandb, which trackio has too.

    Only the global step is given: these services refuse steps that go backwards, as a stage's own step would.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Log each number; text is left to the JSON lines."""
        self._library.log({name: value for name, value in values.items() if not isinstance(value, str)}, step=step)

    def close(self) -> None:
        """End the service's run."""
        self._library.finish()


def open_service(name: str, run_dir: Path) -> ServiceSink:
    """Start, or go on with, a tracker's run that bears the name of the run folder.

    Raises:
        UserError: if the library is not installed or does not start.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"The tracker {name} is not installed. Get it with: pip install 'm4v[{name}]', or leave it out."
        )
    library = importlib.import_module(name)
    own = {"id": run_dir.name, "dir": str(run_dir)} if name == "wandb" else {}
    try:
        library.init(project="m4v", name=run_dir.name, resume="allow", **own)
    except Exception as error:  # the library's own errors have no common base
        raise UserError(f"The tracker {name} does not start: {error}. Log in to it, or leave it out.") from error
    return ServiceSink(library)


class ManySinks:
    """Passes everything on to several sinks."""

    def __init__(self, sinks: list[MetricSink]) -> None:
        self._sinks = sinks

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Write to each sink."""
        for sink in self._sinks:
            sink.write(step, values)

    def close(self) -> None:
        """Close each sink."""
        for sink in self._sinks:
            sink.close()


def open_sinks(run_dir: Path, resumed_step: int, trackers: Sequence[str] = ("tensorboard",)) -> MetricSink:
    """Open `metrics.jsonl` and the trackers.

    Args:
        run_dir: Run folder.
        resumed_step: Global step that the run goes on from.
        trackers: `tensorboard`, `wandb`, `trackio`.

    Raises:
        UserError: if a tracker other than TensorBoard is asked for and not installed, or does not start.
    """
    services = [open_service(name, run_dir) for name in trackers if name != "tensorboard"]
    sinks: list[MetricSink] = [JsonlSink(run_dir / "metrics.jsonl", resumed_step), *services]
    if "tensorboard" in trackers and importlib.util.find_spec("tensorboard") is not None:
        sinks.append(TensorBoardSink(run_dir / "tensorboard", resumed_step))
    return ManySinks(sinks)


class MeanMeter:
    """Means of device scalars over the steps between two log lines, read back with a single synchronisation."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one observation per name, staying on the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, gather: Callable[[Any], list[Any]] | None = None) -> dict[str, float]:
        """Return the means and start anew.

        Args:
            gather: Gives the value of every rank, so that means are over all of them.
        """
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        own = {name: (total, self._counts[name]) for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        totals: dict[str, tuple[float, int]] = {}
        for part in [own] if gather is None else gather(own):
            for name, (total, count) in part.items():
                before, number = totals.get(name, (0.0, 0))
                totals[name] = (before + total, number + count)
        return {name: total / count for name, (total, count) in totals.items()}
