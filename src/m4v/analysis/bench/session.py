"""What every part of the benchmark is handed: device, sizes, clock, time left, and a way to say what it does."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from m4v.analysis.bench.clock import Clock
from m4v.analysis.bench.config import BenchOptions
from m4v.analysis.bench.machine import Rates
from m4v.analysis.bench.rows import PartReport


class Budget:
    """Time of one part.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self.start = time.monotonic()
        self.seconds = seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.seconds - self.spent


@dataclass
class Session:
    """One part being run.

    Attributes:
        device: Where to compute.
        options: What was asked for.
        rates: Of this device, in bfloat16 on CUDA and float32 elsewhere.
        say: Tells a person what is being measured.
        seconds: Time of this part; default: that of the options.
        report: What this part has found.
        networks: Networks that are alive, by name; those of brief runs serve the next part, too.
        budget: Time of this part.
    """

    device: torch.device
    options: BenchOptions
    rates: Rates
    say: Callable[[str], None]
    seconds: float | None = None
    report: PartReport = field(default_factory=PartReport)
    networks: dict[str, Any] = field(default_factory=dict)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.options.seconds if self.seconds is None else self.seconds)

    @property
    def is_brief(self) -> bool:
        """Whether only the aims' measurements are wanted."""
        return self.options.is_brief

    def has_time(self, seconds: float) -> bool:
        """Whether so much of the budget is left; rehearsals run everything."""
        return self.is_tiny or self.budget.left >= seconds

    @property
    def is_tiny(self) -> bool:
        """Whether this is a rehearsal."""
        return self.options.size == "tiny"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of networks: bfloat16 on accelerators, float32 on CPUs, as `m4v generate` chooses."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def clock(self, rounds: int = 9, seconds: float = 4.0) -> Clock:
        """A clock for this device; rehearsals take the shortest."""
        return Clock(self.device, 2, 0.05) if self.is_tiny else Clock(self.device, rounds, seconds)
