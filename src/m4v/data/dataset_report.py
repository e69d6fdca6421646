"""What a data set folder holds, what of it can be used, and why the rest cannot: the body of `m4v data check`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m4v.data.drops import DropReason, count_drops
from m4v.data.folder_source import FolderSource, SourceFacts
from m4v.data.source import UnusableClip


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """The result of reading every file of a folder.

    Attributes:
        root: The folder.
        layout: How captions were found, and why.
        num_found: Rows or files looked at.
        num_videos: Videos that can be used.
        num_images: Images that can be used.
        drops: Why the others cannot, most frequent first.
        target_fps: Rate that videos are resampled to.
        timings: (source fps, decoded frames, frames kept) -> number of videos.
        sizes: (height, width) of the sources -> number of files.
        target_size: (height, width) that frames are scaled and cut to.
        num_captions: Captions of all usable files together.
        seconds: Length of all usable videos at the target rate.
    """

    root: str
    layout: str
    num_found: int
    num_videos: int
    num_images: int
    drops: tuple[DropReason, ...]
    target_fps: float
    timings: dict[tuple[float, int, int], int]
    sizes: dict[tuple[int, int], int]
    target_size: tuple[int, int]
    num_captions: int
    seconds: float

    @property
    def num_kept(self) -> int:
        """Files that can be used."""
        return self.num_videos + self.num_images

    def to_plain(self) -> dict[str, Any]:
        """Give the report as JSON types."""
        return {
            "root": self.root,
            "layout": self.layout,
            "found": self.num_found,
            "kept": self.num_kept,
            "videos": self.num_videos,
            "images": self.num_images,
            "drops": [
                {"reason": drop.reason, "count": drop.count, "examples": list(drop.examples)} for drop in self.drops
            ],
            "target_fps": self.target_fps,
            "timings": [
                {"source_fps": fps, "source_frames": frames, "kept_frames": kept, "count": count}
                for (fps, frames, kept), count in sorted(self.timings.items())
            ],
            "sizes": [
                {"height": height, "width": width, "count": count}
                for (height, width), count in sorted(self.sizes.items())
            ],
            "target_size": list(self.target_size),
            "captions": self.num_captions,
            "seconds": self.seconds,
        }

    def lines(self, num_rows: int = 8) -> list[str]:
        """Write the report for people; long tables keep their `num_rows` most frequent rows."""
        height, width = self.target_size
        lines = [
            f"{self.root}: {self.layout}",
            f"found {self.num_found}, kept {self.num_kept} ({self.num_videos} videos, {self.num_images} images) "
            f"with {self.num_captions} captions, {self.seconds:.1f} s of video",
        ]
        lines += [f"dropped {drop}" for drop in self.drops]
        timings = [
            f"{count} x {fps:g} fps, {frames} frames -> {self.target_fps:g} fps, {kept} frames kept"
            for (fps, frames, kept), count in self._most_frequent(self.timings)
        ]
        sizes = [
            f"{count} x {source_width}x{source_height} -> {width}x{height}"
            for (source_height, source_width), count in self._most_frequent(self.sizes)
        ]
        for rows in (timings, sizes):
            lines += [f"  {row}" for row in rows[:num_rows]]
            if len(rows) > num_rows:
                lines.append(f"  and {len(rows) - num_rows} more kinds")
        return lines

    @staticmethod
    def _most_frequent(counts: dict[Any, int]) -> list[tuple[Any, int]]:
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def check_folder(source: FolderSource, on_progress: Callable[[int, int], None] | None = None) -> DatasetReport:
    """Decode every file of a folder and report what can be used.

    Args:
        source: The folder with the target size and rate.
        on_progress: Called after each file with (files done, files in all).
    """
    drops: list[UnusableClip] = list(source.listing.drops)
    timings: Counter[tuple[float, int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    num_images = num_captions = 0
    seconds = 0.0
    for index, entry in enumerate(source.entries):
        try:
            clip, facts = source.inspect(index)
        except UnusableClip as drop:
            drops.append(drop)
        else:
            sizes[facts.height, facts.width] += 1
            num_captions += len(clip.captions)
            if entry.is_image:
                num_images += 1
            else:
                timings[_timing(facts, len(clip.frames))] += 1
                seconds += len(clip.frames) / clip.fps
        if on_progress:
            on_progress(index + 1, len(source))
    return DatasetReport(
        root=str(source.listing.root),
        layout=source.listing.layout,
        num_found=len(source.entries) + len(source.listing.drops),
        num_videos=timings.total(),
        num_images=num_images,
        drops=count_drops(drops),
        target_fps=source.fps,
        timings=dict(timings),
        sizes=dict(sizes),
        target_size=(source.shape.height, source.shape.width),
        num_captions=num_captions,
        seconds=seconds,
    )


def _timing(facts: SourceFacts, num_kept: int) -> tuple[float, int, int]:
    return round(facts.fps, 3), facts.num_frames, num_kept
