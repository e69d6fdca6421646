"""`m4v evaluate vbench-export` and `vbench-score` as a user types them."""

import json
from pathlib import Path

import pytest

from m4v.cli.main import main
from m4v.evaluation.vbench.dimensions import DIMENSIONS
from m4v.media.video import decode_frames


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    entries = [
        {"prompt_en": "a red ball jumps on the grass", "dimension": ["color"]},
        {"prompt_en": "a blue cube stays still on the sand", "dimension": ["object_class"]},
    ]
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "VBench_full_info.json").write_text(json.dumps(entries))
    return folder


def _export(suite: Path, out: Path, *more: str) -> int:
    words = ["evaluate", "vbench-export", str(out), "--suite", str(suite), "--videos", "1"]
    return main([*words, "--steps", "1", "--frames", "5", "--device", "cpu", *more])


def test_videos_are_named_and_recorded(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "videos"
    assert _export(suite, out) == 0
    assert len(list(decode_frames(out / "a red ball jumps on the grass-0.mp4"))) == 5
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["changes"] == {"num_frames": 5, "num_inference_steps": 1}
    assert all(len(digest) == 64 for digest in manifest["weights_sha256"].values())
    capsys.readouterr()
    assert _export(suite, out, "--check") == 0
    assert "complete: 2" in capsys.readouterr().out
    (out / "a blue cube stays still on the sand-0.mp4").unlink()
    assert _export(suite, out, "--check") == 2
    assert "lacks 1 of 2" in capsys.readouterr().err
    assert _export(suite, out) == 0
    assert "1 made now" in capsys.readouterr().err
    assert _export(suite, out, "--seed", "1") == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err


def test_totals_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "all_eval_results.json"
    results.write_text(json.dumps({name: [dimension.high, [{}]] for name, dimension in DIMENSIONS.items()}))
    assert main(["evaluate", "vbench-score", str(results), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["quality"], scores["semantic"], scores["total"]) == pytest.approx((100, 100, 100))
    assert main(["evaluate", "vbench-score", str(results)]) == 0
    assert "total 100.00" in capsys.readouterr().out
    results.write_text(json.dumps({"color": [0.5, [{}]]}))
    assert main(["evaluate", "vbench-score", str(results)]) == 2
    assert "missing" in capsys.readouterr().err
