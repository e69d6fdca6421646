"""Video files to uint8 frames and back, with PyAV; the only module that knows a video container."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.media.media_error import MediaError
from m4v.media.truncation import missing_bytes

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
_BT709 = 1  # the value of colour matrix, primaries and transfer function in the H.264 stream header


@dataclass(frozen=True)
class VideoFile:
    """A decoded video.

    Attributes:
        frames: All pictures, in the order they are shown.
        fps: Frames per second.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float


@dataclass(frozen=True)
class TimedFrame:
    """One decoded picture and when it is shown, in seconds after the first."""

    pixels: UInt8[np.ndarray, "h w 3"]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file's header says. `reported_frames` may be missing or wrong: only decoding counts frames."""

    height: int
    width: int
    fps: float
    codec: str
    reported_frames: int | None


def write_video(path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, quality: int = 16) -> None:
    """Write an H.264 mp4 that browsers play: yuv420p, BT.709, header in front.

    Odd sizes gain one row or column by repeating the edge, since yuv420p has one colour sample per 2x2 pixels.

    Args:
        path: Target; its folder is created. It appears only once it is complete.
        frames: A `t h w 3` array, or any iterable of frames (written as they come, so a long video needs no memory).
        fps: Frames per second, above 0.
        quality: x264 constant rate factor, 0 (lossless) to 51; 16 looks like the original.

    Raises:
        UserError: if there is no frame, a frame has another size or type than the first, or the place is not writable.
    """
    path = Path(path)
    if not 0 < fps <= 1000:
        raise UserError(f"fps is {fps}; expected a number above 0 and up to 1000.")
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise UserError(f"There is no frame to write to {path}; expected at least one.")
    try:
        with atomic_path(path) as temporary:
            _encode(
                temporary,
                itertools.chain([first], remaining),
                first.shape,
                Fraction(fps).limit_denominator(1001),
                quality,
            )
    except av.error.FFmpegError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another place, ending in .mp4.") from error


def _encode(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], fps: Fraction, quality: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        stream.pix_fmt = "yuv420p"
        # The macroblock tree reads memory it has not written at small sizes: equal frames would give unequal files.
        stream.options = {"crf": str(quality), "x264-params": "mbtree=0"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        reformatter = VideoReformatter()
        for pixels in frames:
            if pixels.shape != shape or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                raise UserError(
                    f"A frame is {pixels.dtype} {pixels.shape}; expected uint8 {(*shape[:2], 3)} like the first."
                )
            padded = np.pad(pixels, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
            picture = reformatter.reformat(
                av.VideoFrame.from_ndarray(padded, "rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def read_video(path: Path | str) -> VideoFile:
    """Decode a whole video.

    Raises:
        MediaError: if the file is missing, truncated, damaged or not a video.
    """
    frames = [frame.pixels for frame in decode_frames(path)]
    return VideoFile(np.stack(frames), probe(path).fps)


def decoder_name() -> str:
    """Name what decodes, with its versions: another decoder may pick or round frames otherwise."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def probe(path: Path | str, content: bytes | None = None) -> VideoInfo:
    """Read a video's header.

    Args:
        path: The file.
        content: Its bytes, where they are in memory already; `path` then only names them.

    Raises:
        MediaError: if the file is missing, truncated, damaged or not a video.
    """
    path = Path(path)
    with _reading(path, content), _open(path, content) as container:
        stream = _video_stream(path, container)
        context = stream.codec_context
        return VideoInfo(
            height=context.height,
            width=context.width,
            fps=_rate(stream),
            codec=context.name,
            reported_frames=stream.frames or None,
        )


def decode_frames(
    path: Path | str,
    content: bytes | None = None,
    *,
    longest_side: int | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[TimedFrame]:
    """Decode a video picture by picture, turned upright as its rotation flag says.

    Args:
        path: The file.
        content: Its bytes, where they are in memory already; `path` then only names them.
        longest_side: Shrink pictures whose longer side has more pixels than this while their colours are converted,
            which costs less than doing it later; all get the size of the first.
        wanted: Whether picture number N, counted from 0, is given; the others are decoded but not converted.

    Raises:
        MediaError: if the file is missing, truncated, damaged or not a video, or holds no picture; a truncated mp4 is
            refused before its first frame, other damage is found when decoding reaches it.
    """
    path = Path(path)
    with _reading(path, content), _open(path, content) as container:
        stream = _video_stream(path, container)
        stream.thread_type = "AUTO"
        period = 1 / _rate(stream)
        start, previous = None, -period
        reformatter = VideoReformatter()  # one for all frames: making one, with its threads, takes longer than a frame
        size: dict[str, int] = {}
        for number, picture in enumerate(container.decode(stream)):
            if longest_side is not None and not size:
                size = _shrunk(picture.width, picture.height, longest_side)
            if picture.is_corrupt:
                raise MediaError(path, f"the picture at {previous + period:.2f} s is damaged")
            time = picture.time
            start = time if start is None else start
            seconds = previous + period if time is None or start is None else time - start
            if seconds <= previous:  # files without usable time stamps: count frames instead
                seconds = previous + period
            previous = seconds
            if wanted is not None and not wanted(number):
                continue
            pixels = reformatter.reformat(
                picture, format="rgb24", threads=1, interpolation=Interpolation.AREA if size else None, **size
            ).to_ndarray()
            upright = np.rot90(pixels, k=round(picture.rotation / 90))
            yield TimedFrame(np.ascontiguousarray(upright), float(seconds))
        if previous < 0:
            raise MediaError(path, "it holds no picture")


def _shrunk(width: int, height: int, longest_side: int) -> dict[str, int]:
    factor = min(1.0, longest_side / max(width, height))
    return {"width": max(2, round(width * factor)), "height": max(2, round(height * factor))}


def _open(path: Path, content: bytes | None) -> InputContainer:
    return av.open(str(path) if content is None else io.BytesIO(content))


@contextlib.contextmanager
def _reading(path: Path, content: bytes | None) -> Iterator[None]:
    """Turn what can go wrong while reading a file into a MediaError that names it."""
    try:
        if missing := missing_bytes(path if content is None else content):
            raise MediaError(path, f"it is truncated, at least {missing} bytes are missing; copy or download it again")
        yield
    except av.error.FFmpegError as error:
        raise MediaError(path, f"{error.strerror}; the file is damaged or not a video") from error
    except OSError as error:
        raise MediaError(path, error.strerror or str(error)) from error


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise MediaError(path, "it has no video track")
    return container.streams.video[0]


def _rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 1.0  # a single picture has no rate
