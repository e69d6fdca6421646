"""`m4v describe`: figures on standard output, friendly refusals."""

import json

import pytest

from m4v.cli.main import main


def test_table_4_stands_beside_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--paper-table", "4"]) == 0
    printed = capsys.readouterr().out
    for figure in ("1,972,059,200", "2.04B", "2.00B", "2.21B", "Full+Temp-Branch"):
        assert figure in printed


def test_json_has_the_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "toybox-xs", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"parameters", "tokens", "flops", "memory_bytes"} <= set(report)
    assert report["parameters"]["total"] == 5_753_200


def test_the_bundled_folder_describes_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from m4v.checkpoints.bundled import bundled_models

    assert main(["describe", str(bundled_models()["toybox-xs"])]) == 0
    assert "17 frames of 64x64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paper-table", "9"], "table 4 is the one"),
        (["nowhere"], "There is no model 'nowhere'"),
        (["toybox-xs", "--height", "72"], "use 64 or 96"),
        (["toybox-xs", "--frames", "18"], "use 17 or 21"),
        (["toybox-xs", "--plan", "half"], "mixer_plan is 'half'"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *words]) == 2
    assert message in capsys.readouterr().err
