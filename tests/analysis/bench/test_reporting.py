"""Report, aims and plot from a document alone; documents of several runs joined."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from m4v.analysis.bench import mixer_part, run
from m4v.analysis.bench.aims import aims
from m4v.analysis.bench.config import PARTS, BenchOptions
from m4v.analysis.bench.plot import draw
from m4v.analysis.bench.report import markdown, table
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.session import Session
from m4v.core.errors import UserError

CPU = torch.device("cpu")


def _mixer_row(scope: str, length: int, ours: float, attention: float, **figures: float) -> Row:
    setting = {"scope": scope, "pass": "forward", "length": length, "width": 1920, "heads": 30, "dtype": "bfloat16",
               "device": "cuda"}  # fmt: skip
    ms = {"ours": ours, "attention": attention}
    return Row(setting=setting, ms=ms, figures={"speedup_over_attention": attention / ours, "floor_ms": 0.1, **figures})


def _fake_report(*_: Any) -> PartReport:
    rows = [_mixer_row("whole mixer", 15488, 1.0, 4.5), _mixer_row("whole mixer", 65536, 5.0, 55.0)]
    return PartReport(rows=rows, notes=["a note"], left_out=["131,072 tokens"], figures={"break-even length": 700})


def _document(monkeypatch: pytest.MonkeyPatch, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    monkeypatch.setattr(mixer_part, "measure", _fake_report)
    options = BenchOptions(size="tiny")
    return run.run_parts(["mixer"], CPU, options, earlier, lambda _: None, lambda _: None)


def test_rows_have_the_stable_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(json.dumps(_document(monkeypatch)))
    for key in ("length", "dtype", "device", "ours_ms", "attention_ms", "floor_ms"):
        assert all(key in row for row in document["rows"]), key
    assert document["device"]
    assert document["versions"]
    assert document["commit"]


def test_parts_of_earlier_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _document(monkeypatch)
    first["parts"]["wan"] = first["parts"]["mixer"] | {"marker": True}
    joined = _document(monkeypatch, first)
    assert list(joined["parts"]) == ["mixer", "wan"]
    assert joined["parts"]["wan"]["marker"]
    with pytest.raises(UserError, match="measurements on another machine"):
        _document(monkeypatch, first | {"device": "another machine"})


def test_a_part_that_fails_is_reported_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> PartReport:
        raise RuntimeError("device lost")

    monkeypatch.setattr(mixer_part, "measure", fail)
    document = run.run_parts(["mixer"], CPU, BenchOptions(size="tiny"), None, lambda _: None, lambda _: None)
    assert "device lost" in document["parts"]["mixer"]["failure"]
    assert "Failed: RuntimeError: device lost" in markdown(document)


def test_aims_pass_and_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    document = _document(monkeypatch)
    assert aims(document["parts"]) == []  # a rehearsal proves nothing
    document["parts"]["mixer"]["size"] = "paper"
    found = {aim.measure: aim for aim in aims(document["parts"])}
    assert found["whole mixer, 15,488 tokens, over attention"].passed is True
    assert found["whole mixer, 65,536 tokens, over attention"].passed is False
    assert found["scan section, 16,384 tokens, forward, over mamba-ssm"].passed is None
    document["aims"] = [aim.to_plain() for aim in found.values()]
    text = "\n".join(markdown(document))
    assert "MISS" in text
    assert "not measured" in text
    assert "left out: 131,072 tokens" in text


def test_a_part_that_fails_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measure(session: Session) -> PartReport:
        session.report.add(_mixer_row("whole mixer", 64, 1.0, 2.0))
        raise RuntimeError("out of luck")

    def look(document: dict[str, Any]) -> None:
        seen.append(len(document["rows"]))

    monkeypatch.setattr(mixer_part, "measure", measure)
    document = run.run_parts(["mixer"], CPU, BenchOptions(size="tiny"), None, lambda _: None, look)
    assert document["parts"]["mixer"]["failure"] == "RuntimeError: out of luck"
    assert len(document["rows"]) == 1
    assert "unfinished" not in document["parts"]["mixer"]
    assert seen == [1, 1]


def test_brief_runs_share_their_time_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[float, list[str]]] = {}

    def measuring(name: str) -> Callable[[Session], PartReport]:
        def measure(session: Session) -> PartReport:
            seen[name] = (session.budget.seconds, list(session.networks))
            session.networks[name] = object()
            return session.report

        return measure

    options = BenchOptions(size="tiny", is_brief=True, seconds=100.0)
    for part in options.shares:
        module = import_module(f"m4v.analysis.bench.{part}_part")
        monkeypatch.setattr(module, "measure", measuring(part))
    monkeypatch.setattr(mixer_part, "measure_last", measuring("last"))
    run.run_parts(list(options.shares), CPU, options, None, lambda _: None, lambda _: None)
    assert list(seen) == [*options.shares, "last"]
    networks = {name: known for name, (_, known) in seen.items()}
    assert networks["generate"] == ["denoiser"]
    assert networks["denoiser"] == networks["train"] == networks["wan"] == networks["last"] == []
    # Nothing takes time here, so that each gets its share of all that is left, and the last one all of it.
    assert seen["mixer"][0] < seen["last"][0] <= 100.0
    assert seen["last"][0] > 50.0


def test_every_part_has_aims() -> None:
    head = {"size": "paper", "rows": [], "figures": {}}
    for part in PARTS:
        measures = aims({part: head})
        assert measures, part
        assert all(aim.passed is not True for aim in measures if part != "correctness"), part


def test_tables_are_aligned() -> None:
    lines = table(("name", "value"), [("a", 1.23456), ("longer", None), ("b", 12345)])
    assert len({len(line) for line in lines}) == 1
    assert "1.23" in lines[2]
    assert "12,345" in lines[4]


def test_the_plot_is_drawn_from_the_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(_document(monkeypatch), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="not a report"):
        run.read_document(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="Cannot read"):
        run.read_document(tmp_path / "broken.json")


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="positive"):
        BenchOptions(seconds=0)
    with pytest.raises(UserError, match="mamba_ssm/ops/triton"):
        BenchOptions(mamba_ssm=tmp_path)
