"""Where a video cuts, and what its shots are like: one pass over all decoded frames.

Cuts come from PySceneDetect's AdaptiveDetector. It is fed with our own decoder's frames, so that frame N is the same
picture when a cut is found and when the clip is written, and damage is found by the same checks as in training.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m4v.core.errors import UserError
from m4v.data.preparation.config import CutConfig
from m4v.data.resampling import is_variable, resample
from m4v.media.video import TimedFrame, decode_frames, probe

_DETECTOR_SIDE = 256  # as PySceneDetect's own scene manager shrinks pictures
_SAME_LEVELS = 1  # what encoding changes in the mean of a cell of a repeated frame
_THUMB = 64
_SIGNATURE = 8
_SIGNATURE_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of one shot that could become a clip.

    Attributes:
        first: Number of its first decoded frame in the source, counted from 0.
        end: Number after its last frame.
        start_seconds: When the first frame is shown.
        end_seconds: When the last frame ends.
        num_frames: Frames of the clip, after resampling.
        motion: Mean difference between consecutive frames of the clip, in grey levels of a 64x64 reduction.
        repeated: Share of those pairs that show the same.
        signature: Five frames of 8x8 colours as hex, to find clips that look the same.
    """

    first: int
    end: int
    start_seconds: float
    end_seconds: float
    num_frames: int
    motion: float
    repeated: float
    signature: str


@dataclass(frozen=True, kw_only=True)
class ScannedVideo:
    """What one pass over a video found.

    Attributes:
        height: Rows, upright.
        width: Columns, upright.
        num_frames: Decoded frames.
        fps: Frames per second that the header states.
        mean_fps: Frames per second by the times of the frames.
        variable_fps: Whether frames are shown for unequal times.
        num_shots: Shots between cuts, used or not.
        spans: What can become a clip.
        short_shots: (start, end) in seconds of shots that are too short.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    mean_fps: float
    variable_fps: bool
    num_shots: int
    spans: tuple[Span, ...]
    short_shots: tuple[tuple[float, float], ...]


@dataclass
class _Shot:
    """Frames since the last cut, reduced to what filters need."""

    first: int
    seconds: list[float]
    thumbs: list[np.ndarray]
    colours: list[np.ndarray]


def scan_video(path: Path, config: CutConfig) -> ScannedVideo:
    """Decode a video once, find its cuts and measure its shots.

    Memory grows with the longest shot (5 kB a frame), not with the video.

    Raises:
        MediaError: if the file cannot be read to its end.
        UserError: if PySceneDetect is not installed.
    """
    detector, timecode = _detector(config)
    info = probe(path)
    times: list[float] = []
    spans: list[Span] = []
    short: list[tuple[float, float]] = []
    num_shots = 0
    shot = _Shot(0, [], [], [])

    def close(end_seconds: float, *, cut_behind: bool) -> None:
        nonlocal num_shots
        num_shots += 1
        start = shot.seconds[0]
        if end_seconds - start < config.min_seconds - 1e-6:
            short.append((start, end_seconds))
            return
        spans.extend(_spans(shot, end_seconds, config, cut_before=num_shots > 1, cut_behind=cut_behind))

    size = None
    for number, frame in enumerate(decode_frames(path, longest_side=_DETECTOR_SIDE)):
        if size is None:
            size = _upright(info.height, info.width, frame.pixels.shape[:2])
        bgr = np.ascontiguousarray(frame.pixels[..., ::-1])
        cuts = [int(cut.frame_num) for cut in detector.process_frame(timecode(number, info.fps), bgr)]
        picture = Image.fromarray(frame.pixels)
        times.append(frame.seconds)
        shot.seconds.append(frame.seconds)
        shot.thumbs.append(np.asarray(picture.convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)))
        shot.colours.append(np.asarray(picture.resize((_SIGNATURE, _SIGNATURE), Image.Resampling.BOX)))
        for cut in cuts:  # found a few frames late
            at = cut - shot.first
            tail = _Shot(cut, shot.seconds[at:], shot.thumbs[at:], shot.colours[at:])
            shot = _Shot(shot.first, shot.seconds[:at], shot.thumbs[:at], shot.colours[:at])
            close(tail.seconds[0], cut_behind=True)
            shot = tail
    period = _last_period(times, info.fps)
    close(times[-1] + period, cut_behind=False)
    assert size is not None  # decode_frames refuses files without pictures
    return ScannedVideo(
        height=size[0],
        width=size[1],
        num_frames=len(times),
        fps=info.fps,
        mean_fps=(len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else info.fps,
        variable_fps=is_variable(times),
        num_shots=num_shots,
        spans=tuple(spans),
        short_shots=tuple(short),
    )


def _detector(config: CutConfig) -> tuple[Any, Any]:
    try:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise UserError(
            f"Finding cuts needs PySceneDetect, which cannot be imported ({error}). Install it with: "
            "pip install 'm4v[data]'"
        ) from error
    # Every cut counts: shots that are too short are dropped by name, not merged with their neighbour.
    detector = AdaptiveDetector(adaptive_threshold=config.cut_ratio, min_content_val=config.cut_change, min_scene_len=1)
    return detector, FrameTimecode


def _upright(height: int, width: int, seen: tuple[int, ...]) -> tuple[int, int]:
    """Exchange the header's sides if the rotation flag turned the pictures."""
    return (width, height) if (height > width) != (seen[0] > seen[1]) and height != width else (height, width)


def _last_period(times: list[float], fps: float) -> float:
    """How long the last frame is shown: as long as the one before."""
    return times[-1] - times[-2] if len(times) > 1 else 1 / fps


def _spans(shot: _Shot, end_seconds: float, config: CutConfig, *, cut_before: bool, cut_behind: bool) -> Iterator[Span]:
    start = shot.seconds[0] + (config.trim_seconds if cut_before else 0.0)
    end = end_seconds - (config.trim_seconds if cut_behind else 0.0)
    num_parts = max(1, int(np.ceil((end - start) / config.max_seconds - 1e-6))) if config.max_seconds else 1
    borders = np.linspace(start, end, num_parts + 1)
    seconds = np.array([*shot.seconds, end_seconds])
    for part_start, part_end in itertools.pairwise(borders):
        first, last = np.searchsorted(seconds[:-1], [part_start - 1e-6, part_end - 1e-6])
        if last - first >= 1:
            yield _measured(shot, int(first), int(last), float(seconds[last]), config.fps)


def _measured(shot: _Shot, first: int, end: int, end_seconds: float, fps: float) -> Span:
    start_seconds = shot.seconds[first]
    picks = picked_frames([seconds - start_seconds for seconds in shot.seconds[first:end]], fps)
    thumbs = np.stack(shot.thumbs[first:end])[picks].astype(np.int16)
    change = np.abs(np.diff(thumbs, axis=0))
    sampled = np.linspace(0, len(picks) - 1, _SIGNATURE_FRAMES).round().astype(int)
    signature = np.stack([shot.colours[first + picks[index]] for index in sampled])
    return Span(
        first=shot.first + first,
        end=shot.first + end,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        num_frames=len(picks),
        motion=round(float(change.mean()), 4) if len(change) else 0.0,
        repeated=round(float((change.max(axis=(1, 2)) <= _SAME_LEVELS).mean()), 4) if len(change) else 1.0,
        signature=signature.tobytes().hex(),
    )


def picked_frames(seconds: list[float], fps: float) -> list[int]:
    """Number the frames that resampling takes, in order; a frame may come more than once."""
    numbered = (TimedFrame(np.array(index), time) for index, time in enumerate(seconds))
    return [int(index) for index in resample(numbered, fps)]


def read_signature(span: Span) -> UInt8[np.ndarray, "n"]:
    """Give a signature as numbers."""
    return np.frombuffer(bytes.fromhex(span.signature), np.uint8)
