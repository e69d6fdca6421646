"""What a benchmark run is asked to do; torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from m4v.core.errors import UserError

PartName = Literal["correctness", "mixer", "denoiser", "generate", "wan", "train"]
PARTS: tuple[PartName, ...] = get_args(PartName)

SizeName = Literal["paper", "laptop", "tiny"]

PART_SECONDS = 510.0
"""Time that one part may take before it leaves the rest out: nine minutes less half a minute to finish a row."""

BRIEF_SECONDS = 400.0
"""Time of a brief run, all parts together."""

_BRIEF_SHARES: dict[PartName, float] = {"mixer": 60, "denoiser": 105, "generate": 50, "train": 35, "wan": 60}
"""Parts of a brief run in their order, and roughly the seconds they take on one H200 with nothing compiled before."""
_BRIEF_LAPTOP_SHARES: dict[PartName, float] = {"mixer": 280, "generate": 120}


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Settings of a run.

    Attributes:
        size: "paper" measures the released sizes and needs an accelerator; "laptop" what a CPU can do in minutes;
            "tiny" runs everything in seconds, to see that it runs.
        seconds: Budget of each part, or of all together if the run is brief; what does not fit is named in the report.
        is_brief: Whether only that is measured which the aims ask for, with networks shared between parts.
        mamba_ssm: Folder with mamba-ssm's source (its `mamba_ssm` folder inside); None: the installed package.

    Raises:
        UserError: if the budget is not positive, or the folder is none of mamba-ssm.
    """

    size: SizeName = "paper"
    seconds: float = PART_SECONDS
    is_brief: bool = False
    mamba_ssm: Path | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"The time budget is {self.seconds} seconds; use a positive number.")
        if self.mamba_ssm is not None and not (self.mamba_ssm / "mamba_ssm" / "ops" / "triton").is_dir():
            raise UserError(
                f"{self.mamba_ssm} has no mamba_ssm/ops/triton; name the folder of mamba-ssm's unpacked source."
            )

    @property
    def shares(self) -> dict[PartName, float]:
        """Parts of a brief run in their order, with their shares of the time."""
        return _BRIEF_LAPTOP_SHARES if self.size == "laptop" else _BRIEF_SHARES
