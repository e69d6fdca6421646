"""Video files: what is written is what is read, and what cannot be read says why."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.media.media_error import MediaError
from m4v.media.video import decode_frames, probe, read_video, write_video
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene


def moving_square(num_frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth coloured background with a bright square that moves two pixels a frame."""
    rows, columns = np.mgrid[0:height, 0:width]
    frames = np.stack([np.stack([rows * 3, columns * 2, 90 + 0 * rows], axis=-1)] * num_frames).astype(np.uint8)
    for index in range(num_frames):
        frames[index, 10:26, 4 + 2 * index : 20 + 2 * index] = (230, 60, 30)
    return frames


def psnr(actual: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((actual.astype(float) - expected.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def test_round_trip_keeps_frames_rate_and_colours(tmp_path: Path) -> None:
    frames = moving_square()
    write_video(tmp_path / "new" / "clip.mp4", frames, fps=8)
    video = read_video(tmp_path / "new" / "clip.mp4")
    assert video.frames.shape == frames.shape
    assert video.frames.dtype == np.uint8
    assert video.fps == 8
    assert min(psnr(video.frames[index], frames[index]) for index in range(len(frames))) > 32
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 128, 0), (128, 128, 128)])
def test_flat_colours_return_within_two_steps(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    write_video(tmp_path / "flat.mp4", np.full((3, 32, 32, 3), colour, dtype=np.uint8), fps=8)
    assert np.abs(read_video(tmp_path / "flat.mp4").frames.astype(int) - colour).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(33, 47), (32, 47), (33, 48), (2, 2), (1, 1), (5, 300)])
def test_odd_sizes_gain_an_edge(tmp_path: Path, height: int, width: int) -> None:
    frames = moving_square(5, 60, 300)[:, :height, :width]
    write_video(tmp_path / "odd.mp4", frames, fps=10)
    read = read_video(tmp_path / "odd.mp4").frames
    assert read.shape == (5, height + height % 2, width + width % 2, 3)
    assert psnr(read[:, :height, :width], frames) > 25


@pytest.mark.parametrize("fps", [1, 8, 12, 23.976, 24, 29.97, 30000 / 1001, 60])
def test_rates_survive(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "rate.mp4", moving_square(7), fps=fps)
    assert read_video(tmp_path / "rate.mp4").fps == pytest.approx(fps, rel=1e-4)
    seconds = [frame.seconds for frame in decode_frames(tmp_path / "rate.mp4")]
    assert seconds == pytest.approx([index / fps for index in range(7)], rel=1e-3)


def test_browser_playable(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(), fps=8)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the header must come first"
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.profile in ("High", "Main", "Baseline", "Constrained Baseline")


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    frames = moving_square(5)
    write_video(tmp_path / "stream.mp4", (frame for frame in frames), fps=8)
    assert len(read_video(tmp_path / "stream.mp4").frames) == 5


def test_probe_reads_the_header(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(9, 48, 64), fps=8)
    info = probe(tmp_path / "clip.mp4")
    assert (info.height, info.width, info.fps, info.codec, info.reported_frames) == (48, 64, 8, "h264", 9)


def test_phone_videos_are_turned_upright(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 48, 3), dtype=np.uint8)
    frames[:, :, 24:] = 255  # the right half is white
    path = tmp_path / "phone.mp4"
    write_video(path, frames, fps=8)
    # The track header's matrix maps (x, y) to (-y, x): a quarter turn clockwise, right becomes bottom.
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    upright = read_video(path).frames
    assert upright.shape == (3, 48, 32, 3)
    assert upright[:, :20].max() < 10
    assert upright[:, 28:].min() > 245


@pytest.mark.parametrize("kept", [0.97, 0.6, 0.3, 0.02])
def test_a_truncated_file_is_refused_and_named(tmp_path: Path, kept: float) -> None:
    whole = tmp_path / "whole.mp4"
    write_video(whole, moving_square(30), fps=8)
    content = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        read_video(cut)
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        probe(cut)


@pytest.mark.parametrize("content", [b"", b"not a video at all", bytes(range(256)) * 20])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"strange\.mp4"):
        read_video(path)


def test_missing_files_folders_and_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        read_video(tmp_path / "absent.mp4")
    with pytest.raises(MediaError, match="directory"):
        read_video(tmp_path)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no video track"):
        read_video(tmp_path / "sound.mp4")


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame"):
        write_video(tmp_path / "a.mp4", np.zeros((0, 32, 32, 3), np.uint8), fps=8)
    with pytest.raises(UserError, match="fps is 0"):
        write_video(tmp_path / "a.mp4", moving_square(), fps=0)
    with pytest.raises(UserError, match="float64"):
        write_video(tmp_path / "a.mp4", moving_square().astype(float), fps=8)
    with pytest.raises(UserError, match="like the first"):
        write_video(tmp_path / "a.mp4", [moving_square()[0], moving_square(1, 32, 32)[0]], fps=8)
    assert list(tmp_path.iterdir()) == [], "a failed write leaves nothing behind"


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        write_video(tmp_path / "file" / "clip.mp4", moving_square(), fps=8)


def test_an_earlier_file_survives_a_failed_write(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(4), fps=8)
    before = (tmp_path / "clip.mp4").read_bytes()

    def breaks() -> object:
        yield moving_square()[0]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(tmp_path / "clip.mp4", breaks(), fps=8)
    assert (tmp_path / "clip.mp4").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


FULL_DISK = """
import json, resource, signal, sys
import numpy as np
from m4v.core.errors import UserError
from m4v.media.video import write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
frames = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
try:
    write_video(sys.argv[1], frames, fps=8)
except UserError as error:
    json.dump(str(error), sys.stdout)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX facility")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(target)], capture_output=True, text=True, check=True)
    assert "Cannot write" in json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    """With memory stirred between writes: what the encoder must not look at."""
    written: list[set[bytes]] = []
    rng = np.random.default_rng(0)
    for index in range(3):
        frames = render(sample_scene(0, index, "xs"), num_frames=5).frames
        files = set()
        for _ in range(8):
            stirred = [rng.integers(0, 255, size, dtype=np.uint8) for size in rng.integers(500, 200_000, 40)]
            del stirred
            write_video(tmp_path / "clip.mp4", frames, 8.0)
            files.add((tmp_path / "clip.mp4").read_bytes())
        written.append(files)
    assert [len(files) for files in written] == [1, 1, 1]
