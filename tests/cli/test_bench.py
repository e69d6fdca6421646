"""`m4v bench`: files it leaves, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from m4v.analysis.bench import mixer_part, wan_part
from m4v.analysis.bench.rows import PartReport, Row
from m4v.cli.main import main


def _measured(*_: Any) -> PartReport:
    setting = {"scope": "whole mixer", "pass": "forward", "length": 64, "width": 64, "heads": 2, "dtype": "float32",
               "device": "cpu"}  # fmt: skip
    return PartReport(rows=[Row(setting=setting, ms={"ours": 1.0, "attention": 2.0}, figures={"floor_ms": 0.5})])


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mixer_part, "measure", _measured)
    monkeypatch.setattr(wan_part, "measure", lambda _: PartReport(notes=["no row"]))
    monkeypatch.chdir(tmp_path)


def test_runs_are_joined_in_one_file_with_tables_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "here.json"
    assert main(["bench", "mixer", "--device", "cpu", "--size", "tiny", "--json", str(target)]) == 0
    assert main(["bench", "--part", "wan", "--device", "cpu", "--size", "tiny", "--json", str(target)]) == 0
    document = json.loads(target.read_text())
    assert list(document["parts"]) == ["mixer", "wan"]
    assert document["rows"][0]["ours_ms"] == 1.0
    assert "## Mixer" in target.with_suffix(".md").read_text()
    assert target.with_suffix(".png").exists()
    printed = capsys.readouterr().out
    assert "attention_ms" in printed
    assert str(target) in printed

    target.with_suffix(".md").unlink()
    assert main(["bench", "report", "--json", str(target)]) == 0
    assert "## Mixer" in target.with_suffix(".md").read_text()


def test_json_on_standard_output_is_nothing_but_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "mixer", "--device", "cpu", "--size", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_before_an_interruption_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(session: Any) -> PartReport:
        session.report.add(_measured().rows[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(mixer_part, "measure", interrupted)
    target = tmp_path / "here.json"
    assert main(["bench", "mixer", "--device", "cpu", "--size", "tiny", "--json", str(target)]) == 130
    assert json.loads(target.read_text())["parts"]["mixer"]["rows"][0]["ours_ms"] == 1.0
    assert "Interrupted" in target.with_suffix(".md").read_text()
    assert "Interrupted" in capsys.readouterr().out


def test_it_says_how_long_it_may_take(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--device", "cpu", "--size", "laptop", "--out", str(tmp_path)]
    assert main(["bench", "mixer", *words, "--seconds", "240"]) == 0
    assert "up to 4 minutes" in capsys.readouterr().err
    assert main(["bench", "mixer", *words, "--brief"]) == 0
    assert "up to 7 minutes" in capsys.readouterr().err


def test_default_names_carry_the_device(tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert main(["bench", "mixer", "--device", "cpu", "--size", "tiny"]) == 0
    names = [path.name for path in (tmp_path / "benchmarks" / "results").iterdir()]
    assert all(name.startswith("bench-") and "-tiny." in name for name in names)
    assert sorted(Path(name).suffix for name in names) == [".json", ".md", ".png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["wan", "--part", "mixer"], "use one of them"),
        (["report"], "--json FILE"),
        (["mixer", "--size", "paper", "--device", "cpu"], "needs a CUDA GPU"),
        (["mixer", "--device", "cpu", "--seconds", "0"], "positive"),
        (["mixer", "--device", "cpu", "--mamba-ssm", "nowhere"], "mamba_ssm/ops/triton"),
    ],
)
def test_refusals(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert expected in capsys.readouterr().err


def test_doctor_says_which_scan_is_used_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "because" in report["devices"]["cpu"]["scan"]
    assert main(["doctor"]) == 0
    assert "scan: " in capsys.readouterr().out
