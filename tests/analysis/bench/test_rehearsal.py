"""Every part runs from end to end at the smallest size, and measures every contender."""

from importlib import import_module

import pytest
import torch

from m4v.analysis.bench.config import PARTS, BenchOptions
from m4v.analysis.bench.machine import Rates
from m4v.analysis.bench.rows import PartReport
from m4v.analysis.bench.session import Session

CPU = torch.device("cpu")


def _measure(part: str, size: str = "tiny") -> PartReport:
    session = Session(CPU, BenchOptions(size=size), Rates(1e10, 1e10), lambda _: None)  # type: ignore[arg-type]
    report: PartReport = import_module(f"m4v.analysis.bench.{part}_part").measure(session)
    return report


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_rehearsal(part: str) -> None:
    report = _measure(part)
    assert report.rows
    assert [row.problems for row in report.rows if row.problems] == []
    assert report.left_out == []
    assert report.checks
    if part == "correctness":
        assert report.figures["passed"] is True
    if part == "generate":
        kinds = {row.setting["kind"] for row in report.rows}
        assert kinds == {"evaluation", "video", "full run", "fixed window"}


@pytest.mark.parametrize("part", ["denoiser", "wan", "train"])
def test_parts_that_need_a_gpu_say_so(part: str) -> None:
    with pytest.raises(Exception, match="needs a CUDA GPU"):
        _measure(part, "laptop")
