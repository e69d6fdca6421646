"""Clips out of users' folders, good and damaged."""

from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.dataset_report import check_folder
from m4v.data.folder_source import FolderSource
from m4v.data.source import UnusableClip
from m4v.media.images import write_png
from m4v.media.video import write_video
from tests.data.folders import make_dataset, numbered_frames, numbers_of, write_rows

SHAPE = VideoShape(num_frames=17, height=16, width=16)


def open_folder(root: Path, **changes: object) -> FolderSource:
    settings = {"shape": SHAPE, "fps": 8.0, "time_compression": 4, **changes}
    return FolderSource(root, **settings)


def test_lengths_are_the_longest_that_fit(tmp_path: Path) -> None:
    source = open_folder(make_dataset(tmp_path))
    clips = [source.clip(index) for index in range(len(source))]
    assert [clip.frames.shape for clip in clips] == [(9, 16, 16, 3), (17, 16, 16, 3), (17, 16, 16, 3), (1, 16, 16, 3)]
    assert [numbers_of(clip.frames) for clip in clips[:3]] == [list(range(9)), list(range(17)), list(range(17))]
    assert [clip.captions for clip in clips] == [("video a",), ("video b",), ("video c",), ("a still",)]
    assert [clip.source for clip in clips] == ["videos/a.mp4", "videos/b.mp4", "videos/c.mp4", "still.png"]
    assert all(clip.fps == 8 for clip in clips)


def test_resampling_takes_the_frames_of_the_target_clock(tmp_path: Path) -> None:
    write_video(tmp_path / "fast.mp4", numbered_frames(21), fps=16)
    (tmp_path / "fast.txt").write_text("fast")
    clip = open_folder(tmp_path).clip(0)
    assert numbers_of(clip.frames) == [0, 2, 4, 6, 8, 10, 12, 14, 16]  # 11 frames at 8 fps, cut to 9


def test_the_centre_is_kept(tmp_path: Path) -> None:
    frames = np.zeros((5, 32, 96, 3), np.uint8)
    frames[:, :, 32:64] = 200
    write_video(tmp_path / "wide.mp4", frames, fps=8)
    (tmp_path / "wide.txt").write_text("wide")
    clip = open_folder(tmp_path).clip(0)
    assert clip.frames[:, :, 2:-2].min() > 190


def test_a_truncated_video_among_good_ones_is_skipped_and_named(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    content = (root / "videos" / "b.mp4").read_bytes()
    (root / "videos" / "b.mp4").write_bytes(content[: len(content) // 2])
    source = open_folder(root)
    with pytest.raises(UnusableClip, match=r"b\.mp4.*truncated") as caught:
        source.clip(1)
    assert caught.value.reason == "unreadable file"
    report = check_folder(source)
    assert (report.num_found, report.num_kept, report.num_videos, report.num_images) == (4, 3, 2, 1)
    (drop,) = report.drops
    assert drop.count == 1
    assert "videos/b.mp4" in drop.examples[0]
    assert "truncated" in drop.examples[0]


def test_damaged_images_and_short_videos_are_unusable(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "bad.txt").write_text("bad")
    write_video(tmp_path / "short.mp4", numbered_frames(4), fps=8)
    (tmp_path / "short.txt").write_text("short")
    source = open_folder(tmp_path)
    with pytest.raises(UnusableClip, match=r"bad\.png: unreadable file"):
        source.clip(0)
    with pytest.raises(UnusableClip, match="too short: 4 frames at 8 fps, at least 5"):
        source.clip(1)


def test_equal_lengths_on_request(tmp_path: Path) -> None:
    source = open_folder(make_dataset(tmp_path), min_frames=17, kind="video")
    assert len(source) == 3
    with pytest.raises(UnusableClip, match="too short"):
        source.clip(0)
    assert len(source.clip(1).frames) == 17


def test_videos_and_images_apart(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    assert [entry.name for entry in open_folder(root, kind="image").entries] == ["still.png"]
    assert len(open_folder(root, kind="video")) == 3
    only_images = tmp_path / "pictures"
    write_png(only_images / "a.png", np.zeros((8, 8, 3), np.uint8))
    (only_images / "a.txt").write_text("a")
    with pytest.raises(UserError, match="Expected videos"):
        open_folder(only_images, kind="video")


def test_videos_serve_as_images(tmp_path: Path) -> None:
    source = open_folder(make_dataset(tmp_path), shape=VideoShape(num_frames=1, height=16, width=16))
    assert [len(source.clip(index).frames) for index in range(4)] == [1, 1, 1, 1]


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)nothing was found.*metadata\.jsonl"):
        open_folder(tmp_path)
    write_rows(tmp_path, [{"path": f"{index}.mp4", "caption": "x"} for index in range(5)] + ["{"])
    with pytest.raises(
        UserError, match=r"(?s)6 dropped.*5 x missing file, for example 0\.mp4.*1 x unreadable"
    ) as caught:
        open_folder(tmp_path)
    assert "3.mp4" not in str(caught.value)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    with pytest.raises(UserError, match="fps is 0"):
        open_folder(root, fps=0)
    with pytest.raises(UserError, match="min_frames is 18"):
        open_folder(root, min_frames=18)


def test_damage_after_the_needed_frames_is_found_by_the_check(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    long_video = root / "videos" / "long.mkv"
    write_video(root / "videos" / "whole.mp4", np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8), 8)
    long_video.unlink(missing_ok=True)
    content = bytearray((root / "videos" / "whole.mp4").read_bytes())
    content[-6000:] = bytes(6000)
    (root / "videos" / "whole.mp4").write_bytes(content)
    write_rows(root, [{"path": "videos/a.mp4", "caption": "a"}, {"path": "videos/whole.mp4", "caption": "w"}])
    report = check_folder(open_folder(root))
    assert report.num_kept == 1
    assert report.drops[0].reason == "unreadable file"


def test_the_report_reads_well_and_serialises(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    write_video(root / "videos" / "d.mp4", numbered_frames(21, 48, 64), fps=16)
    with (root / "metadata.jsonl").open("a") as file:
        file.write('{"path": "videos/d.mp4", "caption": "d"}\n{"path": "gone.mp4", "caption": "x"}\n')
    calls: list[tuple[int, int]] = []
    report = check_folder(open_folder(root), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(index, 5) for index in range(1, 6)]
    text = "\n".join(report.lines())
    assert "found 6, kept 5 (4 videos, 1 images)" in text
    assert "1 x 16 fps, 21 frames -> 8 fps, 9 frames kept" in text
    assert "dropped 1 x missing file, for example gone.mp4" in text
    assert "1 x 64x48 -> 16x16" in text
    plain = report.to_plain()
    assert plain["found"] == 6
    assert plain["kept"] == 5
    assert plain["seconds"] == pytest.approx((9 + 17 + 17 + 9) / 8)
    assert {(row["height"], row["width"], row["count"]) for row in plain["sizes"]} == {
        (32, 32, 3), (48, 64, 1), (50, 70, 1),
    }  # fmt: skip
