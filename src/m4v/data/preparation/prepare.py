"""The body of `m4v data prepare`: scan all sources, choose, write clips, caption, write `metadata.jsonl`."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.data.drops import DropReason, count_drops, require_usable
from m4v.data.folder_listing import FolderEntry, list_folder
from m4v.data.loader import Prefetcher
from m4v.data.preparation.clip_file import WrittenClip, write_clips
from m4v.data.preparation.config import PrepareConfig
from m4v.data.preparation.hooks import load_caption, load_score
from m4v.data.preparation.journal import Journal
from m4v.data.preparation.selection import PlannedClip, ScannedSource, select_clips, where
from m4v.data.preparation.shots import ScannedVideo, scan_video
from m4v.data.source import UnusableClip
from m4v.data.writer import METADATA
from m4v.media.media_error import MediaError
from m4v.media.video import VIDEO_SUFFIXES

JOURNAL = "prepare.jsonl"
SETTINGS = "prepare.json"

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True, kw_only=True)
class PreparedFolder:
    """What came out.

    Attributes:
        root: The folder.
        num_sources: Files looked at.
        num_shots: Shots found in those that can be read.
        num_clips: Clips in the folder.
        num_written: Clips made by this run.
        num_without_caption: Clips that no caption was found for.
        seconds: Length of all clips.
        drops: What was left out, and why.
        notes: Facts to tell: rates and counts, changed and vanished sources.
    """

    root: str
    num_sources: int
    num_shots: int
    num_clips: int
    num_written: int
    num_without_caption: int
    seconds: float
    drops: tuple[DropReason, ...]
    notes: tuple[str, ...]


def prepare(
    source: Path,
    out: Path,
    config: PrepareConfig,
    *,
    caption: str | None = None,
    num_jobs: int = 1,
    update: bool = False,
    progress: Progress,
) -> PreparedFolder:
    """Cut long videos to single-shot clips; the same call goes on after an interruption.

    Args:
        source: A video, or a folder in any layout that training reads; its captions are inherited.
        out: The folder of clips.
        config: How to cut and what to keep.
        caption: Caption hook; see `load_caption`. Captions of the source are not used then.
        num_jobs: Sources worked on at the same time; hooks are called one at a time.
        update: Whether clips made with other settings are replaced; otherwise such a folder is refused.
        progress: Opens a progress display with a title.

    Raises:
        UserError: for settings or places that cannot be used, a folder made otherwise, a failing hook, or no clip.
    """
    run = _Run(source, out, config, caption, num_jobs, progress)
    run.claim(update)
    scanned = run.scan()
    planned, drops = select_clips(scanned, config.keep, config.cut.min_seconds)
    run.drops += drops
    kept = run.write(planned)
    return run.finish(scanned, kept)


class _Run:
    """One call of `prepare`."""

    def __init__(
        self, source: Path, out: Path, config: PrepareConfig, caption: str | None, num_jobs: int, progress: Progress
    ) -> None:
        if num_jobs < 1:
            raise UserError(f"--jobs is {num_jobs}; expected at least 1.")
        self.out, self.config, self.caption_name = out, config, caption
        self.num_jobs, self.progress = num_jobs, progress
        self.drops: list[UnusableClip] = []
        self.notes: list[str] = []
        self.num_written = 0
        self.hook_lock = threading.Lock()
        self.entries = self._entries(source)
        self.num_sources = len(self.entries) + len(self.drops)
        keep = config.keep
        self.text = load_score(keep.text_score, "--text-score") if keep.text_score else None
        self.aesthetic = load_score(keep.aesthetic_score, "--aesthetic-score") if keep.aesthetic_score else None
        self.caption = load_caption(caption) if caption else None
        # What decides about the content and the scores of a clip's file, whose name says which frames it holds: with
        # other filters it stays.
        self.clip_key = _digest_of(
            {
                "fps": config.cut.fps,
                "short_side": config.short_side,
                "quality": config.quality,
                "hooks": [keep.text_score, keep.aesthetic_score],
            }
        )

    def _entries(self, source: Path) -> list[FolderEntry]:
        if source.is_file():
            text = source.with_suffix(".txt")
            captions = (" ".join(text.read_text(encoding="utf-8").split()),) if text.is_file() else ("",)
            return [FolderEntry(source, source.name, captions)]
        if self.out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{self.out} lies in {source}; the clips would be read as sources. Choose another folder.")
        listing = list_folder(source, "empty")
        self.drops += listing.drops
        videos = []
        for entry in listing.entries:
            if entry.path.suffix.lower() in VIDEO_SUFFIXES:
                videos.append(entry)
            else:
                self.drops.append(UnusableClip("not a video", entry.name))
        require_usable(len(videos), str(source), self.drops, f"Expected videos ({', '.join(VIDEO_SUFFIXES)}).")
        return videos

    def claim(self, update: bool) -> None:
        """Take the folder, or refuse one that was made otherwise."""
        path, wanted = self.out / SETTINGS, to_plain(self.config)
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            changes = _changes(found, wanted)
            if changes and not update:
                raise UserError(
                    f"{self.out} was made with other settings: {'; '.join(changes)}. Repeat them, choose another "
                    "folder, or add --update to replace its clips."
                )
            self.notes += [f"changed setting {change}" for change in changes]
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise UserError(f"{self.out} is not empty and was not written by this command; choose another folder.")
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        for left_over in (self.out / "clips").glob(".*.mp4"):  # of a killed run
            left_over.unlink()
        self.journal = Journal(self.out / JOURNAL)

    def scan(self) -> list[ScannedSource]:
        """Read every source once, unless that was done before and neither it nor the way to cut has changed."""
        found: list[ScannedSource] = []
        with (
            self.progress("finding shots") as advance,
            Prefetcher(
                lambda number: self._scan_one(self.entries[number]), range(len(self.entries)), num_threads=self.num_jobs
            ) as results,
        ):
            for count, result in enumerate(results, start=1):
                if isinstance(result, UnusableClip):
                    self.drops.append(result)
                else:
                    found.append(result)
                advance(count, len(self.entries))
        return found

    def _scan_one(self, entry: FolderEntry) -> ScannedSource | UnusableClip:
        cut = to_plain(self.config.cut)
        try:
            status = entry.path.stat()
            row = self.journal.find("source", entry.name)
            same_file = row is not None and row["bytes"] == status.st_size and row["mtime_ns"] == status.st_mtime_ns
            if status.st_size == 0:
                return UnusableClip("empty file", entry.name)
            digest = row["digest"] if row is not None and same_file else _digest_of_file(entry.path)
            if row is not None and row["digest"] != digest:
                self.notes.append(f"{entry.name} has changed since; its clips are made anew")
            if row is None or row["digest"] != digest or row["cut"] != cut:
                row = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": digest, "cut": cut}
                try:
                    row["video"] = to_plain(scan_video(entry.path, self.config.cut))
                except MediaError as error:
                    row["problem"] = error.reason
                self.journal.add("source", entry.name, row)
        except OSError as error:
            return UnusableClip("unreadable file", entry.name, error.strerror or str(error))
        if "problem" in row:
            return UnusableClip("unreadable file", entry.name, row["problem"])
        video = from_plain(ScannedVideo, row["video"])
        return ScannedSource(path=entry.path, name=entry.name, digest=digest, video=video)

    def write(self, planned: list[PlannedClip]) -> list[tuple[PlannedClip, dict[str, Any]]]:
        """Write the clips that are missing and score them; give those that pass, with their rows of the journal."""
        missing: dict[str, list[PlannedClip]] = {}
        for clip in planned:
            row = self.journal.find("clip", clip.file_name)
            is_done = row is not None and row["settings"] == self.clip_key
            if not (row is not None and is_done and (self._problem(row) or (self.out / clip.file_name).is_file())):
                missing.setdefault(clip.source.name, []).append(clip)
        jobs = list(missing.values())
        total = sum(map(len, jobs))
        with (
            self.progress("writing clips") as advance,
            Prefetcher(
                lambda number: self._write_one(jobs[number]), range(len(jobs)), num_threads=self.num_jobs
            ) as results,
        ):
            for count in results:
                self.num_written += count
                advance(self.num_written, total)
        kept = []
        for clip in planned:
            row = self.journal.find("clip", clip.file_name)
            if row is None or row["settings"] != self.clip_key:  # its source could not be read again
                self.drops.append(UnusableClip("source changed while it was read", where(clip.source, clip.span)))
            elif problem := self._problem(row):
                self.drops.append(UnusableClip(problem[0], where(clip.source, clip.span), problem[1]))
            else:
                kept.append((clip, row))
        return kept

    def _write_one(self, clips: list[PlannedClip]) -> int:
        by_first = {clip.span.first: clip for clip in clips}
        wanted = [(clip.span, self.out / clip.file_name) for clip in clips]
        count = 0
        try:
            for written in write_clips(clips[0].source.path, wanted, self.config):
                row = self._written_row(written)
                self.journal.add("clip", by_first[written.span.first].file_name, row)
                if self._problem(row):
                    written.path.unlink(missing_ok=True)
                count += 1
        except MediaError as error:
            self.notes.append(f"{clips[0].source.name}: {error.reason}")
        return count

    def _written_row(self, written: WrittenClip) -> dict[str, Any]:
        row: dict[str, Any] = {"settings": self.clip_key, "scores": {}, "unwritten": written.problem}
        if written.frames is None:
            return row
        with self.hook_lock:
            row["scores"] = {
                name: hook(written.frames)
                for name, hook in (("text", self.text), ("aesthetic", self.aesthetic))
                if hook is not None
            }
        return {**row, "height": written.frames.shape[1], "width": written.frames.shape[2]}

    def _problem(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Why the clip of a row of the journal is left out, under the filters of this run."""
        keep, scores = self.config.keep, row["scores"]
        if row["unwritten"]:
            return "picture size changes", row["unwritten"]
        if "text" in scores and scores["text"] > keep.max_text:
            return "text or watermark", f"score {scores['text']:.3g}, expected at most {keep.max_text:g}"
        if "aesthetic" in scores and scores["aesthetic"] < keep.min_aesthetic:
            return "low aesthetic score", f"{scores['aesthetic']:.3g}, expected at least {keep.min_aesthetic:g}"
        return None

    def finish(self, scanned: list[ScannedSource], kept: list[tuple[PlannedClip, dict[str, Any]]]) -> PreparedFolder:
        """Caption, write `metadata.jsonl`, remove what no longer belongs, and sum up."""
        captions = {entry.name: entry.captions for entry in self.entries}
        rows = []
        with self.progress("captions") as advance:
            for count, (clip, written) in enumerate(kept, start=1):
                rows.append(self._row(clip, written, captions[clip.source.name]))
                advance(count, len(kept))
        self._remove_others({row["file_name"] for row in rows})
        with atomic_path(self.out / METADATA) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        require_usable(len(rows), "the sources", self.drops, "Loosen the filters, and add --update.")
        fps = self.config.cut.fps
        for source in scanned:
            video = source.video
            own = [clip.span for clip, _ in kept if clip.source is source]
            variable = ", variable" if video.variable_fps else ""
            self.notes.append(
                f"{source.name}: {video.mean_fps:.5g} fps{variable}, {video.num_frames} decoded frames -> "
                f"{sum(span.end - span.first for span in own)} of them in {len(own)} clips, at {fps:g} fps "
                f"{sum(span.num_frames for span in own)} frames"
            )
        return PreparedFolder(
            root=str(self.out),
            num_sources=self.num_sources,
            num_shots=sum(source.video.num_shots for source in scanned),
            num_clips=len(rows),
            num_written=self.num_written,
            num_without_caption=sum("caption" not in row for row in rows),
            seconds=sum(row["num_frames"] for row in rows) / fps,
            drops=count_drops(self.drops),
            notes=tuple(self.notes),
        )

    def _row(self, clip: PlannedClip, written: Mapping[str, Any], inherited: tuple[str, ...]) -> dict[str, Any]:
        video, span = clip.source.video, clip.span
        row: dict[str, Any] = {
            "file_name": clip.file_name,
            "fps": self.config.cut.fps,
            "num_frames": span.num_frames,
            "height": written["height"],
            "width": written["width"],
            "source": clip.source.name,
            "source_start": round(span.start_seconds, 6),
            "source_end": round(span.end_seconds, 6),
            "source_frames": [span.first, span.end],
            "source_fps": round(video.mean_fps, 6),
            "scores": {"motion": span.motion, "repeated": span.repeated, **written["scores"]},
        }
        texts = tuple(text for text in inherited if text)
        if self.caption is not None:
            texts = self._hook_caption(clip, row)
        if texts:
            row["caption"] = texts[0]
        if len(texts) > 1:
            row["captions"] = list(texts)
        return row

    def _hook_caption(self, clip: PlannedClip, row: Mapping[str, Any]) -> tuple[str, ...]:
        assert self.caption is not None
        made_by = _digest_of({"caption": self.caption_name, "settings": self.clip_key})
        known = self.journal.find("caption", clip.file_name)
        if known is None or known["made_by"] != made_by:
            text = " ".join((self.caption(self.out / clip.file_name, row) or "").split())
            known = {"made_by": made_by, "text": text}
            self.journal.add("caption", clip.file_name, known)
        return (known["text"],) if known["text"] else ()

    def _remove_others(self, names: set[str]) -> None:
        """Remove clips that this command made and no longer wants: of changed sources, or under other settings."""
        others = [
            row["key"]
            for row in self.journal.rows("clip")
            if row["key"] not in names and (self.out / row["key"]).is_file()
        ]
        for name in others:
            (self.out / name).unlink()
        if others:
            self.notes.append(f"removed {len(others)} clips that no longer belong, for example {others[0]}")


def _changes(found: Any, wanted: Any, where_: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        return [change for key in keys for change in _changes(found.get(key), wanted.get(key), f"{where_}.{key}")]
    return [] if found == wanted else [f"{where_.lstrip('.')} {found} -> {wanted}"]


def _digest_of(value: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
