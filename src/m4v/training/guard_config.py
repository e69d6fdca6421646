"""Settings of the guard against steps that would ruin a run (torch-free)."""

from dataclasses import dataclass
from typing import Literal

from m4v.training.optim_config import require


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What counts as a loss spike and what is done about it.

    A NaN or an infinity always stops a run; this is about finite losses that leave their usual range. What is usual is
    learnt per kind of loss, since an early unit and a late one, an image and a video, differ by more than a spike.

    Attributes:
        spike_factor: Deviations above the running median at which a loss is a spike; 0 switches the guard off. One
            deviation is 1.4826 times the median absolute deviation, which is the standard deviation of a Gaussian.
        window: Losses of a kind that the running median and deviation are taken over, at least 8.
        action: `warn` says so and goes on; `skip` also leaves the weights as they were before such a step; `stop` ends
            the run with the batch saved.
        most_saved: Batches kept in the run folder; further spikes are only counted.
    """

    spike_factor: float = 20.0
    window: int = 64
    action: Literal["warn", "skip", "stop"] = "warn"
    most_saved: int = 8

    def __post_init__(self) -> None:
        require(self.spike_factor >= 0, f"guard.spike_factor is {self.spike_factor}; it must be at least 0.")
        require(self.window >= 8, f"guard.window is {self.window}; it must be at least 8 losses.")
        require(self.most_saved >= 0, f"guard.most_saved is {self.most_saved}; it must be at least 0.")
