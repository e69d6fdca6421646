"""`m4v toybox render` writes a data set that can be trained on."""

import json

import pytest


def test_clips_captions_and_labels(m4v, tmp_path):
    outcome = m4v("toybox", "render", "--out", "world", "--num", 3, "--tier", "xs", "--seed", 5, "--threads", 1)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "world\n"
    rows = [json.loads(line) for line in (tmp_path / "world" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all((tmp_path / "world" / row["file_name"]).is_file() for row in rows)
    assert len((tmp_path / "world" / "labels.jsonl").read_text().splitlines()) == 3
    more = m4v("toybox", "render", "--out", "world", "--num", 4, "--seed", 5, "--threads", 1)
    assert "Rendered 1 videos, 3 were there already" in more.err
    check = m4v("data", "check", "world")
    assert check.code == 0
    assert "kept 4 (4 videos" in check.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "w", "--num", "0"], "num_clips is 0"),
        (["--out", "w", "--num", "2", "--tier", "xxl"], "xxl"),
        (["--out", "w", "--num", "2", "--split", "nope"], "nope"),
        (["--out", "w", "--num", "2", "--threads", "-1"], "--threads is -1"),
        (["--out", "file/w", "--num", "2"], "Cannot write"),
        (["--num", "2"], "--out"),
    ],
)
def test_bad_input(m4v, tmp_path, words, message):
    (tmp_path / "file").write_text("")
    outcome = m4v("toybox", "render", *words)
    assert outcome.code == 2
    assert message in outcome.err + outcome.out
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "w").exists()
