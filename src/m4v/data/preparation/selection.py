"""Which spans become clips; a pure function of what the scans found, in the order of the sources."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4v.data.preparation.config import FilterConfig
from m4v.data.preparation.shots import ScannedVideo, Span, read_signature
from m4v.data.source import UnusableClip

_SAME_COLOUR_LEVELS = 10  # encoding a second time changes means of cells by less


@dataclass(frozen=True, kw_only=True)
class ScannedSource:
    """A source with what its scan found."""

    path: Path
    name: str
    digest: str
    video: ScannedVideo


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """A clip to write: `file_name` is below the output folder and names source content and frames."""

    source: ScannedSource
    span: Span
    file_name: str


def select_clips(
    sources: list[ScannedSource], config: FilterConfig, min_seconds: float
) -> tuple[list[PlannedClip], list[UnusableClip]]:
    """Apply the filters that need no decoding."""
    planned: list[PlannedClip] = []
    drops: list[UnusableClip] = []
    seen = np.zeros((0, 0), np.int16)
    for source in sources:
        video = source.video
        if problem := _size_problem(video, config):
            drops += [UnusableClip(problem[0], where(source, span), problem[1]) for span in video.spans]
            continue
        drops += [
            UnusableClip(f"shot shorter than {min_seconds:g} s", f"{source.name} {start:.2f}-{end:.2f} s")
            for start, end in video.short_shots
        ]
        for span in video.spans:
            problem = _span_problem(span, video, config)
            signature = read_signature(span).astype(np.int16)
            if problem is None and not config.duplicates and len(seen):
                nearest = np.abs(seen - signature).max(axis=1)
                twin = int(nearest.argmin())
                if nearest[twin] <= _SAME_COLOUR_LEVELS:
                    problem = "looks like an earlier clip", where(planned[twin].source, planned[twin].span)
            if problem:
                drops.append(UnusableClip(problem[0], where(source, span), problem[1]))
                continue
            planned.append(PlannedClip(source=source, span=span, file_name=_file_name(source, span)))
            seen = np.concatenate([seen.reshape(-1, len(signature)), signature[None]])
    return planned, drops


def where(source: ScannedSource, span: Span) -> str:
    """Name a span for messages."""
    return f"{source.name} {span.start_seconds:.2f}-{span.end_seconds:.2f} s"


def _size_problem(video: ScannedVideo, config: FilterConfig) -> tuple[str, str] | None:
    size = f"{video.width}x{video.height}"
    if video.height < config.min_height or video.width < config.min_width:
        return "too small", f"{size}, expected at least {config.min_width}x{config.min_height}"
    if max(video.height, video.width) > config.max_aspect * min(video.height, video.width):
        return "too long and narrow", f"{size}, expected sides of 1 to {config.max_aspect:g} at most"
    return None


def _span_problem(span: Span, video: ScannedVideo, config: FilterConfig) -> tuple[str, str] | None:
    if span.num_frames < 2:
        return "a single frame", ""
    if span.motion < config.min_motion:
        return "hardly moves", f"mean frame difference {span.motion:g}, expected at least {config.min_motion:g}"
    if span.repeated > config.max_repeated:
        detail = f"{span.repeated:.0%} of frames repeat the one before, expected at most {config.max_repeated:.0%}"
        return "repeated frames", f"{detail}; the source has {video.mean_fps:.4g} fps"
    return None


def _file_name(source: ScannedSource, span: Span) -> str:
    stem = "".join(letter if letter.isalnum() else "-" for letter in Path(source.name).stem)[:40].strip("-") or "video"
    # Two sources of one name and content differ by path.
    digest = hashlib.blake2b(f"{source.name}\n{source.digest}".encode(), digest_size=4).hexdigest()
    return f"clips/{stem}-{digest}-{span.first:06d}-{span.end:06d}.mp4"
