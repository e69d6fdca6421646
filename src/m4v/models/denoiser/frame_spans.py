"""Which frames of a sequence each rank holds: whole frames, in order, as evenly as they go.

Frames are contiguous in every scan path, so a split between frames holds for all layers. The text goes with the first
span. With more ranks than frames some hold none.
"""

from dataclasses import dataclass
from functools import lru_cache

from m4v.core.sequence_layout import FrameGrid, SequenceLayout


@dataclass(frozen=True)
class FrameSpans:
    """A layout cut between frames.

    Attributes:
        layout: The whole sequence.
        cuts: First frame of every rank, and the number of frames.
    """

    layout: SequenceLayout
    cuts: tuple[int, ...]

    @property
    def num_ranks(self) -> int:
        """Spans there are."""
        return len(self.cuts) - 1

    def frames(self, rank: int) -> tuple[FrameGrid, ...]:
        """Frames of a rank."""
        return self.layout.frames[self.cuts[rank] : self.cuts[rank + 1]]

    def num_text(self, rank: int) -> int:
        """Text tokens of a rank."""
        return self.layout.num_text_tokens if rank == 0 else 0

    def video(self, rank: int) -> slice:
        """Video tokens of a rank, among all."""
        starts = self.layout.frame_starts
        return slice(starts[self.cuts[rank]], starts[self.cuts[rank + 1]])

    def num_tokens(self, rank: int) -> int:
        """Text and video tokens of a rank."""
        video = self.video(rank)
        return self.num_text(rank) + video.stop - video.start

    def noisy(self, rank: int) -> slice:
        """Noisy tokens of a rank, among its video tokens."""
        video, start = self.video(rank), self.layout.num_history_tokens
        return slice(max(start, video.start) - video.start, max(start, video.stop) - video.start)


@lru_cache(maxsize=1024)
def frame_spans(layout: SequenceLayout, num_ranks: int) -> FrameSpans:
    """Cut a layout so that the longest span is as short as can be; among those cuts, with the least sum of squares."""
    starts, text = layout.frame_starts, layout.num_text_tokens
    # Of the first `end` frames in the spans so far: longest span, sum of squares, cuts.
    best: list[tuple[int, int, tuple[int, ...]]] = [
        (text + start, (text + start) ** 2, (0, end)) for end, start in enumerate(starts)
    ]
    for _ in range(1, num_ranks):
        best = [
            min(
                (max(longest, starts[end] - starts[first]), squares + (starts[end] - starts[first]) ** 2, (*cuts, end))
                for first, (longest, squares, cuts) in enumerate(best[: end + 1])
            )
            for end in range(len(starts))
        ]
    return FrameSpans(layout, best[-1][2])
