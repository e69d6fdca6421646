"""The report of a run."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from m4v.cli.main import main
from m4v.core.errors import UserError
from m4v.media.images import write_png
from m4v.studies.metric_lines import Chart, draw, group_charts, read_metrics
from m4v.studies.run_report import write_report


def _run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    lines = [
        {
            "step": step,
            "stage": "t2v",
            "stage_step": step,
            "loss": 1.0 / step,
            "loss/unit-0": 0.5,
            "loss/unit-1": 0.7,
            "lr": 1e-3,
        }
        for step in range(1, 1001)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1001, "lo')
    (run / "config.json").write_text(json.dumps({"name": "toy <recipe>"}))
    facts = {"stages": {"t2v": {"steps": 1000, "items": 32000}}, "device": "cpu", "parameters": {"vae": 12345}}
    (run / "export" / "training.json").write_text(json.dumps(facts))
    for step in (10, 1000):
        write_png(run / "samples" / f"step-{step:08d}" / "sheet.png", np.zeros((8, 8, 3), dtype=np.uint8))
    (run / "samples" / "step-00001000" / "prompt-00.mp4").write_bytes(b"video")
    return run


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"seen": {"colour": 0.984375, "intervals": [[0, 1]]}}))
    page = write_report(_run(tmp_path), tmp_path / "report.html", [scores]).read_text()
    for text in ("toy &lt;recipe&gt;", "32,000", "12,345", "seen.colour", "0.984375", "loss/unit-1", "step-00000010"):
        assert text in page, text
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:video/mp4;base64,") == 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page


def test_units_share_a_chart_and_losses_come_first(tmp_path: Path) -> None:
    charts = group_charts(read_metrics(_run(tmp_path) / "metrics.jsonl"))
    assert [chart.title for chart in charts] == ["loss", "loss/unit", "lr"]
    assert list(charts[1].lines) == ["loss/unit-0", "loss/unit-1"]
    assert charts[0].is_logarithmic
    assert not charts[1].is_logarithmic


def test_a_line_is_drawn_where_its_numbers_are() -> None:
    svg = draw(Chart(title="x", lines={"a": [(0.0, 1.0), (10.0, 100.0)]}, is_logarithmic=True)).split("<figcaption>")[0]
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    (left, low), (right, high) = (map(float, point.split(",")) for point in str(line.get("points")).split())
    assert left < right
    assert low > high  # down is larger
    flat = draw(Chart(title="x", lines={"a": [(3.0, 2.0)]}, is_logarithmic=False))
    assert "nan" not in flat


def test_many_points_become_means() -> None:
    points = [(float(step), float(step % 2)) for step in range(4000)]
    svg = draw(Chart(title="x", lines={"a": points}, is_logarithmic=False)).split("<figcaption>")[0]
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    assert len(str(line.get("points")).split()) == 400


def test_only_a_cut_off_end_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"ste\n{"step": 2, "loss": 1}\n')
    with pytest.raises(UserError, match="Line 2"):
        read_metrics(path)
    path.write_text('{"step": 1, "stage": "vae"}\n')
    with pytest.raises(UserError, match="no numbers"):
        read_metrics(path)


def test_the_verb_writes_into_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(tmp_path)]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err
