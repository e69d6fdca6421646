"""`m4v data check` on folders of real small videos."""

import json

import numpy as np
import pytest

from m4v.media.video import write_video


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
        write_video(root / f"{number}.mp4", frames, 8.0)
        (root / f"{number}.txt").write_text(f"video {number}")
    return root


def test_usable_and_dropped_files_are_counted(m4v, folder):
    content = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(content[: len(content) // 2])
    (folder / "2.txt").unlink()
    outcome = m4v("data", "check", folder, "--frames", 9, "--height", 32, "--width", 32)
    assert outcome.code == 0
    assert "found 3, kept 1 (1 videos, 0 images)" in outcome.out
    assert "1.mp4" in outcome.out
    assert "no caption" in outcome.out


def test_json(m4v, folder, tmp_path):
    report = json.loads(m4v("data", "check", folder, "--json").out)
    assert (report["found"], report["kept"]) == (3, 3)
    assert m4v("data", "check", folder, "--json", "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text()) == report


def test_a_folder_without_a_usable_clip_is_code_2_with_reasons(m4v, folder, tmp_path):
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes(b"not a video")
    outcome = m4v("data", "check", folder)
    assert outcome.code == 2
    assert "3 x" in outcome.err
    assert "Traceback" not in outcome.err
    for words, message in (
        (["data", "check", tmp_path / "none"], "none"),
        (["data", "check", folder, "--frames", "0"], "at least 1"),
        (["data", "check", folder, "--fps", "0"], "fps"),
        (["data", "check"], "folder"),
    ):
        outcome = m4v(*words)
        assert outcome.code == 2
        assert message in (outcome.err + outcome.out).lower()
        assert "Traceback" not in outcome.err
