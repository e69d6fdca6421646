"""Every part runs from end to end at the smallest size, and measures every contender."""

from importlib import import_module

import pytest
import torch

from m4v.analysis.bench import denoiser_part, generate_part, mixer_part, train_part, wan_part
from m4v.analysis.bench.config import PARTS, BenchOptions
from m4v.analysis.bench.denoiser_part import network_base
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


def _brief_on_gpu() -> Session:
    """As on an accelerator, of which nothing is asked here."""
    options = BenchOptions(size="paper", is_brief=True)
    return Session(torch.device("cuda"), options, Rates(1e12, 1e12), lambda _: None)


def test_brief_runs_measure_what_the_aims_ask_for() -> None:
    session = _brief_on_gpu()
    (shape,) = mixer_part.shapes(session)
    assert (shape.num_heads, shape.head_dim, shape.dtype) == (30, 64, torch.bfloat16)
    passes = {length: mixer_part._passes(session, length) for length in shape.lengths}
    assert passes[16384] == ((), (False,))  # backwards at the very end: `measure_last`
    assert passes[15488] == ((False, True), ())
    assert all(passes[length] == ((False,), ()) for length in (1024, 2048, 4096, 65536))
    assert shape.lengths[0] == 16384
    plan = generate_part.plan_for(session)
    assert 241 in plan.frames
    assert {0, 1, 30} <= set(plan.units)
    train = train_part.cases(session, plan.setup.latent)
    assert [(case.size, case.level, case.checkpointing) for case in train[:2]] == [
        ("768x1280x241", 2, False),
        ("384x640x241", 2, False),
    ]
    wan = {(case.name, case.size, case.is_compiled) for case in wan_part.cases(session)}
    assert wan == {(name, "720x1280x81", flag) for name in ("wan-1.3b", "wan-14b") for flag in (False, True)}


@pytest.mark.parametrize("obstacle", [None, "no compiler"])
def test_networks_that_cannot_be_compiled_are_not_timed_as_if_they_were(
    monkeypatch: pytest.MonkeyPatch, obstacle: str | None
) -> None:
    session = Session(CPU, BenchOptions(size="laptop", is_brief=True), Rates(1e10, 1e10), lambda _: None)
    base = network_base(Session(CPU, BenchOptions(size="tiny"), Rates(1e10, 1e10), lambda _: None))
    monkeypatch.setattr(denoiser_part, "network_base", lambda _: base)
    monkeypatch.setattr(denoiser_part, "_CASES", ((2, 2), (1, 0), (0, 0)))
    monkeypatch.setattr(denoiser_part, "BRIEF", ("attention", "m4v"))
    monkeypatch.setattr(denoiser_part, "compiled_or_eager", lambda *_: obstacle)
    report = denoiser_part.measure(session)
    assert len(report.rows) == 3
    if obstacle is None:
        assert all({"attention", "m4v"} <= set(row.ms) for row in report.rows)
        assert report.checks["compiled"] < 1e-5  # compared with what the same networks gave eagerly
        assert set(session.networks) == {"attention", "m4v"}
    else:
        assert all(row.problems["m4v"] == "not compiled: no compiler" for row in report.rows)
        assert session.networks == {}


@pytest.mark.parametrize("part", ["denoiser", "wan", "train"])
def test_parts_that_need_a_gpu_say_so(part: str) -> None:
    with pytest.raises(Exception, match="needs a CUDA GPU"):
        _measure(part, "laptop")
