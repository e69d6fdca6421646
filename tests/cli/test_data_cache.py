"""`m4v data shard` and `m4v data cache` on folders of real small videos."""

import json

import numpy as np
import pytest

from m4v.media.video import read_video, write_video


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
        write_video(root / f"{number}.mp4", frames, 8.0)
        (root / f"{number}.txt").write_text(f"a red ball {number}")
    return root


def test_shards_are_written_kept_and_checked(m4v, folder, tmp_path):
    outcome = m4v("data", "shard", folder, "tars", "--per-shard", 2)
    assert outcome.code == 0
    assert outcome.out.strip() == "tars"
    assert "3 samples in 2 tars: 2 written" in outcome.err
    assert "2 kept from before" in m4v("data", "shard", folder, "tars", "--per-shard", 2).err
    report = json.loads(m4v("data", "check", "tars", "--frames", 9, "--json").out)
    assert (report["kept"], report["videos"]) == (3, 3)


def test_a_cache_is_made_once_and_looked_at(m4v, folder, tmp_path):
    words = ["data", "cache", folder, "latents", "--model", "tiny", "--device", "cpu", "--threads", 1]
    outcome = m4v(*words, "--decode-check", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "latents"
    assert "3 clips encoded, 0 kept" in outcome.err
    decoded = sorted((tmp_path / "latents" / "decoded").glob("*.mp4"))
    assert [read_video(path).frames.shape for path in decoded] == [(9, 32, 32, 3)] * 2
    assert "0 clips encoded, 3 kept" in m4v(*words).err
    (folder / "1.txt").write_text("a blue cube")
    (folder / "2.mp4").write_bytes(b"damaged")
    err = m4v(*words).err
    assert "1 clips encoded, 1 kept" in err
    assert "1 clips were there, but made with or from changed caption" in err
    assert "1 x unreadable file, for example 2.mp4" in err
    assert "another size or rate" in m4v(*words, "--fps", 4, "--frames", 5).err


def test_bad_input_is_code_2_without_a_traceback(m4v, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    cache = ["data", "cache", folder, "out", "--model", "tiny", "--device", "cpu"]
    for words, message in (
        (["data", "shard", "none", "out"], "not a folder"),
        (["data", "shard", "empty", "out"], "nothing was found"),
        (["data", "shard", folder, folder], "choose another folder"),
        (["data", "shard", folder, "out", "--per-shard", 1, "--shard-size", 1], "give one of them"),
        (["data", "shard", folder, "out", "--per-shard", 0], "expected at least 1"),
        ([*cache[:5], "absent", "--device", "cpu"], "no model"),
        ([*cache, "--frames", 8], "4k+1"),
        ([*cache, "--height", 31], "multiple of"),
        ([*cache, "--frames", 121], "dropped"),
        ([*cache, "--frames", -1], "at least 0"),
    ):
        outcome = m4v(*words)
        assert outcome.code == 2, (words, outcome)
        assert message in outcome.err, (words, outcome.err)
        assert "Traceback" not in outcome.err
