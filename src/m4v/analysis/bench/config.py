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


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Settings of a run.

    Attributes:
        size: "paper" measures the released sizes and needs an accelerator; "laptop" what a CPU can do in minutes;
            "tiny" runs everything in seconds, to see that it runs.
        seconds: Budget of each part; what does not fit is named in the report.
        mamba_ssm: Folder with mamba-ssm's source (its `mamba_ssm` folder inside); None: the installed package.

    Raises:
        UserError: if the budget is not positive, or the folder is none of mamba-ssm.
    """

    size: SizeName = "paper"
    seconds: float = PART_SECONDS
    mamba_ssm: Path | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"The time budget is {self.seconds} seconds; use a positive number.")
        if self.mamba_ssm is not None and not (self.mamba_ssm / "mamba_ssm" / "ops" / "triton").is_dir():
            raise UserError(
                f"{self.mamba_ssm} has no mamba_ssm/ops/triton; name the folder of mamba-ssm's unpacked source."
            )
