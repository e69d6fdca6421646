"""What a data set folder holds, what of it can be used, and why the rest cannot: the body of `m4v data check`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m4v.data.bucket_report import BucketReport, sort_into_buckets
from m4v.data.buckets import Bucket, MediaSize, SmallBuckets
from m4v.data.drops import DropReason, count_drops
from m4v.data.folder_entry import FolderEntry
from m4v.data.folder_source import FolderSource, SourceFacts
from m4v.data.source import UnusableClip

_NUM_EXAMPLES = 3
_WHOLE_RATE = 1e-3  # containers state whole rates as ratios that are not quite whole


@dataclass(frozen=True)
class Remark:
    """Something about kept files that is no reason to drop them, with a few of them named."""

    text: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count} with {self.text}, for example {', '.join(self.examples)}"


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
        remarks: Kept files of variable or broken frame rate or odd size, and what is done about them.
        buckets: How the kept files fall into buckets.
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
    remarks: tuple[Remark, ...]
    buckets: BucketReport

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
            "drops": [drop.to_plain() for drop in self.drops],
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
            "remarks": [
                {"text": item.text, "count": item.count, "examples": list(item.examples)} for item in self.remarks
            ],
            **self.buckets.to_plain(),
        }

    def lines(self, num_rows: int = 8) -> list[str]:
        """Write the report for people; long tables keep their `num_rows` most frequent rows."""
        sizes_of_buckets = {(bucket.height, bucket.width) for bucket in self.buckets.clips}
        target = " -> {1}x{0}".format(*self.target_size) if sizes_of_buckets == {self.target_size} else ""
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
        sizes = [f"{count} x {width}x{height}{target}" for (height, width), count in self._most_frequent(self.sizes)]
        for rows in (timings, sizes):
            lines += [f"  {row}" for row in rows[:num_rows]]
            if len(rows) > num_rows:
                lines.append(f"  and {len(rows) - num_rows} more kinds")
        return [*lines, *map(str, self.remarks), *self.buckets.lines()]

    @staticmethod
    def _most_frequent(counts: dict[Any, int]) -> list[tuple[Any, int]]:
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def check_folder(
    source: FolderSource,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    buckets: Sequence[Bucket] = (),
    batch_size: int = 1,
    small: SmallBuckets = "repeat",
) -> DatasetReport:
    """Decode every file of a folder and report what can be used.

    Args:
        source: The folder with the target size and rate.
        on_progress: Called after each file with (files done, files in all).
        buckets: Sizes and lengths to sort the files into; none: the source's own, for videos and for images.
        batch_size: Clips per batch where `buckets` is not given.
        small: What happens to buckets with less than a batch.

    Raises:
        UserError: as `sort_into_buckets`.
    """
    drops: list[UnusableClip] = list(source.listing.drops)
    timings: Counter[tuple[float, int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    media: list[MediaSize] = []
    unusual: dict[str, list[str]] = {}
    num_captions = 0
    seconds = 0.0
    for index, entry in enumerate(source.entries):
        try:
            clip, facts = source.inspect(index)
        except UnusableClip as drop:
            drops.append(drop)
        else:
            sizes[facts.height, facts.width] += 1
            num_captions += len(clip.captions)
            media.append(_media_size(entry, facts))
            for text, example in _unusual(source, entry, facts):
                unusual.setdefault(text, []).append(example)
            if not entry.is_image:
                timings[_timing(facts, len(clip.frames))] += 1
                seconds += len(clip.frames) / clip.fps
        if on_progress:
            on_progress(index + 1, len(source))
    return DatasetReport(
        root=str(source.listing.root),
        layout=source.listing.layout,
        num_found=len(source.entries) + len(source.listing.drops),
        num_videos=timings.total(),
        num_images=len(media) - timings.total(),
        drops=count_drops(drops),
        target_fps=source.fps,
        timings=dict(timings),
        sizes=dict(sizes),
        target_size=(source.shape.height, source.shape.width),
        num_captions=num_captions,
        seconds=seconds,
        remarks=tuple(Remark(text, len(names), tuple(names[:_NUM_EXAMPLES])) for text, names in unusual.items()),
        buckets=sort_into_buckets(buckets or _own_buckets(source, media, batch_size), media, small),
    )


def _timing(facts: SourceFacts, num_kept: int) -> tuple[float, int, int]:
    return round(facts.fps, 3), facts.num_frames, num_kept


def _media_size(entry: FolderEntry, facts: SourceFacts) -> MediaSize:
    height, width = facts.height, facts.width
    if entry.crop is not None:
        height, width = entry.crop[3] - entry.crop[1], entry.crop[2] - entry.crop[0]
    return MediaSize(name=entry.name, height=height, width=width, num_frames=facts.length, is_image=entry.is_image)


def _unusual(source: FolderSource, entry: FolderEntry, facts: SourceFacts) -> Iterator[tuple[str, str]]:
    """Yield what is unusual about a kept file, and how to name it."""
    target = f"{source.fps:g} fps by the times of the frames"
    if facts.variable_fps:
        yield f"variable frame rate, resampled to {target}", entry.name
    elif not entry.is_image and abs(facts.fps - round(facts.fps)) > _WHOLE_RATE:
        yield f"broken frame rate, resampled to {target}", f"{entry.name} ({facts.fps:.5g} fps)"
    if facts.height % 2 or facts.width % 2:
        yield "odd height or width, scaled and cut like all others", f"{entry.name} ({facts.width}x{facts.height})"


def _own_buckets(source: FolderSource, media: Sequence[MediaSize], batch_size: int) -> list[Bucket]:
    """One bucket of the source's shape for videos, one for images, as far as there are any."""
    shape = source.shape
    lengths = {1 if item.is_image else shape.num_frames for item in media}
    return [
        Bucket(height=shape.height, width=shape.width, num_frames=length, batch_size=batch_size) for length in lengths
    ]
