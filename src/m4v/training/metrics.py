"""Where numbers go while training: a JSON line per entry always, TensorBoard when it is installed."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


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


def open_sinks(run_dir: Path, resumed_step: int) -> MetricSink:
    """Open `metrics.jsonl`, and `tensorboard/` if TensorBoard is installed."""
    sinks: list[MetricSink] = [JsonlSink(run_dir / "metrics.jsonl", resumed_step)]
    if importlib.util.find_spec("tensorboard") is not None:
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
