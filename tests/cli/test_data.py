"""`m4v data check` on folders of real small videos."""

import json
from fractions import Fraction

import av
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


def write_unusual(root):
    """A video of variable rate, one of 29.97 fps and one of odd size, beside the folder's three."""
    frames = np.random.default_rng(9).integers(0, 256, (36, 40, 48, 3), dtype=np.uint8)
    with av.open(str(root / "variable.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 40, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):  # 18 frames of 1/12 s, then 18 of 1/24 s: 2.2 s
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            picture.pts = round(1000 * (index / 12 if index < 18 else 1.5 + (index - 18) / 24))
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    write_video(root / "broken.mp4", frames, 30000 / 1001)
    with av.open(str(root / "odd.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = 41, 53, "bgr0"
        for pixels in frames[:12]:
            odd = np.pad(pixels, ((0, 1), (0, 5), (0, 0)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(odd, "rgb24")))
        container.mux(stream.encode(None))
    for name in ("variable", "broken", "odd"):
        (root / f"{name}.txt").write_text(name)


def test_unusual_rates_and_sizes_are_said(m4v, folder):
    write_unusual(folder)
    words = ("data", "check", folder, "--frames", 9, "--height", 32, "--width", 32)
    plain = json.loads(m4v(*words, "--json").out)
    assert plain["kept"] == 6
    assert {row["text"].split(",")[0]: row["examples"] for row in plain["remarks"]} == {
        "variable frame rate": ["variable.mkv"],
        "broken frame rate": ["broken.mp4 (29.97 fps)"],
        "odd height or width": ["odd.mkv (53x41)"],
    }
    text = m4v(*words).out
    assert "1 with variable frame rate, resampled to 8 fps by the times of the frames, for example variable.mkv" in text
    assert "1 with odd height or width, scaled and cut like all others, for example odd.mkv (53x41)" in text


def test_buckets_are_counted_and_small_and_empty_ones_said(m4v, folder):
    write_unusual(folder)  # at 8 fps, three videos and the odd one have 12 frames, the variable 18, the broken 10
    wide = np.zeros((12, 32, 96, 3), np.uint8)
    write_video(folder / "wide.mp4", wide, 8.0)
    (folder / "wide.txt").write_text("wide")
    words = ["data", "check", folder, "--batch-size", 2]
    for bucket in ("40x48x9", "40x48x17", "32x96x9", "32x32x1"):
        words += ["--bucket", bucket]
    plain = json.loads(m4v(*words, "--json").out)
    counts = {(row["height"], row["width"], row["frames"]): row["count"] for row in plain["buckets"]}
    assert counts == {(40, 48, 9): 5, (40, 48, 17): 1, (32, 96, 9): 1, (32, 32, 1): 0}
    assert plain["without_bucket"] == []
    text = m4v(*words).out
    assert "bucket 40x48x9: 5 videos, 3 batches of 2" in text
    assert "Bucket 32x32x1 is empty." in text
    assert "Bucket 32x96x9 has 1 clips for batches of 2: they repeat within a batch." in text
    assert "1 clips of bucket 40x48x17 are merged into 40x48x9." in m4v(*words, "--small-buckets", "merge").out
    refused = m4v(*words, "--small-buckets", "refuse")
    assert refused.code == 2
    assert "2 buckets hold fewer clips than one batch" in refused.err


def test_clips_without_bucket_are_counted(m4v, folder):
    text = m4v("data", "check", folder, "--frames", 17).out
    assert "kept 3" in text
    assert "in no bucket: 3 x shorter than every bucket, for example 0.mp4 (12 frames, 17 are needed)" in text
    only_images = json.loads(m4v("data", "check", folder, "--bucket", "32x32x1", "--json").out)
    assert only_images["without_bucket"][0]["reason"] == "no bucket for videos"


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
        (["data", "check", folder, "--batch-size", "0"], "at least 1"),
        (["data", "check", folder, "--bucket", "32x32"], "heightxwidthxframes"),
        (["data", "check", folder, "--bucket", "32x32x8"], "plus one"),
        (["data", "check"], "folder"),
    ):
        outcome = m4v(*words)
        assert outcome.code == 2
        assert message in (outcome.err + outcome.out).lower()
        assert "Traceback" not in outcome.err
