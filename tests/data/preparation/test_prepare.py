"""Long videos to clips: exact frames, every drop named, nothing done twice."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.data.preparation.config import CutConfig, FilterConfig, PrepareConfig
from m4v.data.preparation.prepare import PreparedFolder, prepare
from m4v.media.video import read_video, write_video
from tests.data.preparation.footage import shot, two_shots

pytest.importorskip("scenedetect")


@contextlib.contextmanager
def silent(_: str):
    yield lambda done, total: None


def run(source: Path, out: Path, config: PrepareConfig | None = None, **options: object) -> PreparedFolder:
    return prepare(source, out, config or PrepareConfig(), progress=silent, **options)  # type: ignore[arg-type]


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def reasons(prepared: PreparedFolder) -> dict[str, int]:
    return {drop.reason: drop.count for drop in prepared.drops}


def test_a_known_cut_gives_two_clips_of_exact_frames(tmp_path: Path) -> None:
    frames = np.concatenate([shot(0, 60), shot(1, 72)])
    write_video(tmp_path / "in" / "a.mp4", frames, 24, quality=4)
    (tmp_path / "in" / "a.txt").write_text("a square")
    run(tmp_path / "in", tmp_path / "out")
    first, second = rows_of(tmp_path / "out")
    # The cut is at 2.5 s: 0.1 s before it end and behind it begin the clips.
    assert (first["source_frames"], second["source_frames"]) == ([0, 58], [63, 132])
    assert [row["caption"] for row in (first, second)] == ["a square"] * 2
    for row, (start, end) in ((first, (0, 58)), (second, (63, 132))):
        clip = read_video(tmp_path / "out" / row["file_name"])
        assert len(clip.frames) == row["num_frames"] == end - start
        assert clip.fps == row["fps"] == 24
        difference = np.abs(clip.frames.astype(int) - frames[start:end]).mean(axis=(1, 2, 3))
        shifted = np.abs(clip.frames[1:].astype(int) - frames[start : end - 1]).mean(axis=(1, 2, 3))
        assert difference.max() < shifted.min()


def test_another_rate_is_reached_by_choosing_frames(tmp_path: Path) -> None:
    two_shots(tmp_path / "in" / "a.mp4")
    prepared = run(tmp_path / "in", tmp_path / "out", PrepareConfig(cut=CutConfig(fps=8)))
    assert [row["num_frames"] for row in rows_of(tmp_path / "out")] == [20, 23]  # every third of 58 and 69
    assert any("24 fps, 132 decoded frames" in note and "at 8 fps 43 frames" in note for note in prepared.notes)
    assert prepared.num_without_caption == 2


def test_variable_rates_are_read_by_their_times(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with av.open(str(tmp_path / "in" / "v.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(shot(0, 72)):  # 36 frames of 1/12 s, then 36 of 1/24 s: 4.5 s
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            picture.pts = round(1000 * (index / 12 if index < 36 else 3 + (index - 36) / 24))
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    prepared = run(tmp_path / "in", tmp_path / "out", PrepareConfig(cut=CutConfig(fps=12)))
    (row,) = rows_of(tmp_path / "out")
    assert row["num_frames"] == 54
    assert "variable" in " ".join(prepared.notes)


def test_drops_are_counted_by_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    two_shots(folder / "a.mp4")
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    write_video(folder / "c.mp4", read_video(folder / "a.mp4").frames, 24, quality=28)  # encoded again
    write_video(folder / "still.mp4", shot(2, 60, moves=False), 24)
    write_video(folder / "slow.mp4", np.repeat(shot(3, 24), 3, axis=0), 24)
    write_video(folder / "brief.mp4", shot(2, 30), 24)
    write_video(folder / "small.mp4", shot(2, 60, 32, 40), 24)
    write_video(folder / "narrow.mp4", shot(2, 60, 64, 320), 24)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut-off.mp4").write_bytes((folder / "a.mp4").read_bytes()[:4000])
    prepared = run(folder, tmp_path / "out")
    assert [row["source"] for row in rows_of(tmp_path / "out")] == ["a.mp4", "a.mp4"]
    assert reasons(prepared) == {
        "looks like an earlier clip": 4,
        "hardly moves": 1,
        "repeated frames": 1,
        "shot shorter than 2 s": 1,
        "too small": 1,
        "too long and narrow": 1,
        "empty file": 1,
        "unreadable file": 1,
    }
    assert prepared.num_sources == 10


def test_odd_sizes_lose_a_row_and_metadata_tell_the_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with av.open(str(tmp_path / "in" / "odd.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 97, 131, "bgr0"
        for pixels in shot(0, 60, 97, 131):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["height"], row["width"]) == (96, 130)
    assert read_video(tmp_path / "out" / row["file_name"]).frames.shape == (60, 96, 130, 3)


def test_long_shots_are_divided(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", shot(0, 24 * 7), 24)
    run(tmp_path / "in", tmp_path / "out", PrepareConfig(cut=CutConfig(max_seconds=4)))
    assert [row["source_frames"] for row in rows_of(tmp_path / "out")] == [[0, 84], [84, 168]]


def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(tmp_path: Path) -> None:
    for name, size in (("a", (96, 128)), ("b", (100, 140))):
        frames = np.concatenate([shot(kind, 50, *size) for kind in ((0, 1) if name == "a" else (2, 3))])
        write_video(tmp_path / "in" / f"{name}.mp4", frames, 24)
    (tmp_path / "deadly.py").write_text(
        "import os, signal\ncalls = 0\n"
        "def score(frames):\n"
        "    global calls\n    calls += 1\n"
        "    if calls == int(os.environ.get('DIE_AT', 0)):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return 0.0\n"
    )
    words = ["--text-score", "deadly:score", "--min-seconds", "1"]
    command = [sys.executable, "-m", "m4v.cli.main", "data", "prepare", "in", "out", *words]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    killed = subprocess.run(command, cwd=tmp_path, env={**environment, "DIE_AT": "3"}, capture_output=True, check=False)
    assert killed.returncode == -9
    done = {json.loads(line)["key"] for line in (tmp_path / "out" / "prepare.jsonl").read_text().splitlines()}
    clips = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("clips/*") if f"clips/{path.name}" in done
    }
    assert len(clips) == 2
    (tmp_path / "out" / "clips" / ".half-12345678.mp4").write_bytes(b"half")
    with (tmp_path / "out" / "prepare.jsonl").open("a") as file:
        file.write('{"kind": "clip", "ke')
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "(2 written now)" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in clips} == clips
    assert not list((tmp_path / "out" / "clips").glob(".*"))
    whole = subprocess.run(
        [*command[:6], "whole", *words], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert whole.returncode == 0
    assert (tmp_path / "whole/metadata.jsonl").read_bytes() == (tmp_path / "out/metadata.jsonl").read_bytes()
    for path in (tmp_path / "whole" / "clips").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "clips" / path.name).read_bytes()


def test_a_repeated_run_writes_nothing_and_a_changed_source_only_its_own(tmp_path: Path) -> None:
    two_shots(tmp_path / "in" / "a.mp4")
    write_video(tmp_path / "in" / "b.mp4", shot(2, 60), 24)
    assert run(tmp_path / "in", tmp_path / "out").num_written == 3
    before = (tmp_path / "out" / "metadata.jsonl").read_bytes()
    os.utime(tmp_path / "in" / "a.mp4")  # touched, but the same
    assert run(tmp_path / "in", tmp_path / "out", num_jobs=2).num_written == 0
    assert (tmp_path / "out" / "metadata.jsonl").read_bytes() == before
    write_video(tmp_path / "in" / "b.mp4", shot(3, 60), 24)
    prepared = run(tmp_path / "in", tmp_path / "out")
    assert prepared.num_written == 1
    assert any("b.mp4 has changed" in note for note in prepared.notes)
    assert len(list((tmp_path / "out" / "clips").iterdir())) == len(rows_of(tmp_path / "out")) == 3


def test_changed_settings_are_named_and_need_consent(tmp_path: Path) -> None:
    two_shots(tmp_path / "in" / "a.mp4")
    run(tmp_path / "in", tmp_path / "out")
    other = PrepareConfig(cut=CutConfig(fps=12.0))
    with pytest.raises(UserError, match=r"cut\.fps 24\.0 -> 12\.0.*--update"):
        run(tmp_path / "in", tmp_path / "out", other)
    assert run(tmp_path / "in", tmp_path / "out", other, update=True).num_written == 2
    assert {row["fps"] for row in rows_of(tmp_path / "out")} == {12}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(tmp_path / "in", tmp_path / "mine")


def test_other_filters_rewrite_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red_hook.py").write_text("def red(frames):\n    return frames[..., 0].mean() / 255\n")
    two_shots(tmp_path / "in" / "a.mp4")

    def run_with(max_text: float, **filters: float) -> PreparedFolder:
        config = PrepareConfig(keep=FilterConfig(text_score="red_hook:red", max_text=max_text, **filters))  # type: ignore[arg-type]
        return run(tmp_path / "in", tmp_path / "out", config, update=True)

    assert run_with(1.0).num_written == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").iterdir()}
    assert run_with(1.0, min_motion=0.1, max_repeated=0.9).num_written == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    stricter = run_with(0.4)  # a matter of the scores that are known already
    assert (stricter.num_written, reasons(stricter)) == (0, {"text or watermark": 1})
    (left,) = (tmp_path / "out" / "clips").iterdir()
    assert left.stat().st_mtime_ns == before[left]
    looser = run_with(1.0)  # only the clip that was removed is made again
    assert (looser.num_written, looser.num_clips) == (1, 2)
    assert left.stat().st_mtime_ns == before[left]
    config = PrepareConfig(quality=20, keep=FilterConfig(text_score="red_hook:red", max_text=1.0))
    assert run(tmp_path / "in", tmp_path / "out", config, update=True).num_written == 2


def test_a_size_that_changes_within_a_shot_is_a_counted_drop(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with av.open(str(tmp_path / "in" / "resized.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        frames = [*shot(0, 60), *shot(1, 30)]
        frames += [picture[::2, ::2] for picture in shot(1, 60)[30:]]  # the second shot shrinks halfway
        frames += [picture[::2, ::2] for picture in shot(2, 60)]
        for number, pixels in enumerate(frames):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt = *pixels.shape[:2], "yuvj420p"
            encoder.time_base = Fraction(1, 24)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format="yuvj420p")
            picture.pts, picture.time_base = number, Fraction(1, 24)
            for packet in [*encoder.encode(picture), *encoder.encode(None)]:
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 24), number, number
                container.mux(packet)
    prepared = run(tmp_path / "in", tmp_path / "out", PrepareConfig(keep=FilterConfig(min_motion=0)))
    assert reasons(prepared) == {"picture size changes": 1}
    assert "from 128x96 to 64x48" in prepared.drops[0].examples[0]
    # Clips on both sides of the change are whole, and their rows state the sizes that their files have.
    rows = rows_of(tmp_path / "out")
    assert [(row["height"], row["width"]) for row in rows] == [(96, 128), (48, 64)]
    for row in rows:
        clip = read_video(tmp_path / "out" / row["file_name"])
        assert clip.frames.shape == (row["num_frames"], row["height"], row["width"], 3)
    again = run(tmp_path / "in", tmp_path / "out", PrepareConfig(keep=FilterConfig(min_motion=0)))
    assert (again.num_written, reasons(again)) == (0, reasons(prepared))


def test_hooks_score_and_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_hooks.py").write_text(
        "def red(frames):\n    assert frames.shape == (8, 96, 128, 3)\n    return frames[..., 0].mean() / 255\n"
        "def name(path, row):\n    return f\"{row['source']}  from {row['source_start']:.0f}\"\n"
        "def bad(frames):\n    return float('nan')\n"
    )
    two_shots(tmp_path / "in" / "a.mp4")
    config = PrepareConfig(keep=FilterConfig(text_score="own_hooks:red", max_text=0.4))
    prepared = run(tmp_path / "in", tmp_path / "out", config, caption="own_hooks:name")
    assert reasons(prepared) == {"text or watermark": 1}
    (row,) = rows_of(tmp_path / "out")
    assert row["caption"] == "a.mp4 from 3"
    assert row["scores"]["text"] < 0.4
    assert run(tmp_path / "in", tmp_path / "out", config, caption="echo {source} {start} {path}").num_written == 0
    caption = rows_of(tmp_path / "out")[0]["caption"]
    assert caption.startswith("a.mp4 2.625 ")
    assert caption.endswith(row["file_name"])
    with pytest.raises(UserError, match="gave nan"):
        run(tmp_path / "in", tmp_path / "new", PrepareConfig(keep=FilterConfig(text_score="own_hooks:bad")))
    with pytest.raises(UserError, match="cannot be imported"):
        run(tmp_path / "in", tmp_path / "out", config, caption="no_module:name")
    with pytest.raises(UserError, match="code 1"):
        run(tmp_path / "in", tmp_path / "out", config, caption="false {path}")
