"""Clips from a folder of users' own videos and images, cut to what the model can take."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.annotations.filters import ScoreFilter
from m4v.data.clip import Clip
from m4v.data.drops import require_usable
from m4v.data.folder_entry import FolderEntry, MissingCaption
from m4v.data.folder_listing import list_folder
from m4v.data.resampling import is_variable, resample, resampled_count, resampled_length, usable_length
from m4v.data.resizing import fit_picture
from m4v.data.source import UnusableClip
from m4v.media.images import cover_box, read_image
from m4v.media.media_error import MediaError
from m4v.media.video import TimedFrame, decode_frames, probe

Kind = Literal["any", "video", "image"]


@dataclass(frozen=True)
class SourceFacts:
    """What a file was before it was cut to the model's size, for reports.

    Attributes:
        num_frames: Decoded frames, the whole file.
        fps: Frames per second that the file states.
        height: Rows, upright.
        width: Columns, upright.
        length: Frames that it gives at the target rate, of its cut only if it has one; 1 for an image.
        variable_fps: Whether its frames are shown for unequal times; only known after decoding.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    length: int = 1
    variable_fps: bool = False


class FolderSource:
    """The clips of a folder; clip `index` is the beginning of the folder's file `index`.

    Frames are picked at the target rate, scaled to cover the target size and cut to its centre. A video gives its
    longest `time_compression * k + 1` frames up to the target length, so lengths may differ between clips; an image
    gives one frame.

    Attributes:
        listing: What was found in the folder, and which rows and files were left out.
        entries: The files that clips are made from.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        shape: VideoShape,
        fps: float,
        time_compression: int,
        min_frames: int | None = None,
        kind: Kind = "any",
        missing_caption: MissingCaption = "skip",
        media: Path | str | None = None,
        filters: Sequence[ScoreFilter] = (),
    ) -> None:
        """List the folder; nothing is decoded yet.

        Args:
            root: A folder or annotation file in any layout that `list_folder` knows.
            shape: Target size, and the most frames of a clip.
            fps: Target frames per second, above 0.
            time_compression: Frames per latent frame of the autoencoder, at least 1.
            min_frames: Fewest frames of a video; by default one more than `time_compression`, so that it moves. Set it
                to `shape.num_frames` where all clips must be equally long.
            kind: Take only videos, only images, or both.
            missing_caption: Whether a file without caption is left out or gets the empty caption.
            media: Folder that the paths of an annotation file are relative to, where it is another.
            filters: Bounds of the scores that annotations carry.

        Raises:
            UserError: if the folder has no usable entry; the message counts the reasons.
        """
        if not fps > 0:
            raise UserError(f"fps is {fps}; expected a number above 0.")
        self.shape = shape
        self.fps = fps
        self.time_compression = time_compression
        self.min_frames = min(time_compression + 1, shape.num_frames) if min_frames is None else min_frames
        if self.min_frames > usable_length(shape.num_frames, time_compression):
            raise UserError(
                f"min_frames is {self.min_frames}, but a clip has at most "
                f"{usable_length(shape.num_frames, time_compression)} frames; lower it or raise num_frames."
            )
        self.listing = list_folder(root, missing_caption, media=media, filters=filters)
        self.entries = tuple(
            entry for entry in self.listing.entries if kind == "any" or entry.is_image == (kind == "image")
        )
        require_usable(
            len(self.entries),
            str(root),
            self.listing.drops,
            f"Expected {'videos or images' if kind == 'any' else kind + 's'} with captions: a metadata.jsonl with "
            '{"file_name": ..., "caption": ...} rows, or a .txt beside each file.',
        )

    def __len__(self) -> int:
        """Count the listed files."""
        return len(self.entries)

    def name(self, index: int) -> str:
        """Name of file `index`, which is its clip's `source`."""
        return self.entries[index].name

    def clip(self, index: int) -> Clip:
        """Decode clip `index`, no further than needed.

        Raises:
            UnusableClip: if the file is damaged or too short.
        """
        return self.clip_as(index, self.shape, self.min_frames)

    def clip_as(self, index: int, shape: VideoShape, min_frames: int) -> Clip:
        """Decode clip `index` at another size or length than the source's own.

        Args:
            index: Which file.
            shape: Size, and the most frames.
            min_frames: Fewest frames of a video.

        Raises:
            UnusableClip: if the file is damaged or too short.
        """
        entry = self.entries[index]
        with _reading(entry):
            content = entry.content()
            if entry.is_image:
                return self._image_clip(entry, read_image(entry.path, content), shape)
            return self._video_clip(entry, decode_frames(entry.path, content), shape, min_frames)

    def header(self, index: int) -> SourceFacts:
        """Read what file `index` says of itself; frames are counted by decoding where it does not say how many.

        Raises:
            UnusableClip: if the file is damaged.
        """
        entry = self.entries[index]
        with _reading(entry):
            content = entry.content()
            height, width = self._upright_size(entry, content)
            if entry.is_image:
                num_frames, fps = 1, self.fps
            else:
                info = probe(entry.path, content)
                fps = info.fps
                num_frames = info.reported_frames or sum(1 for _ in decode_frames(entry.path, content))
        if entry.cut is not None:
            num_frames = max(0, min(num_frames, entry.cut[1]) - entry.cut[0])
        if entry.crop is not None:
            height, width = entry.crop[3] - entry.crop[1], entry.crop[2] - entry.crop[0]
        length = 1 if entry.is_image else resampled_length(num_frames, fps, self.fps)
        return SourceFacts(num_frames, fps, height, width, length)

    @staticmethod
    def _upright_size(entry: FolderEntry, content: bytes | None) -> tuple[int, int]:
        """Rows and columns as shown: a video's header does not say how it is turned."""
        is_image = entry.is_image
        first = read_image(entry.path, content) if is_image else next(decode_frames(entry.path, content)).pixels
        return first.shape[0], first.shape[1]

    def crop_box(self, index: int, shape: VideoShape) -> tuple[float, float, float, float]:
        """Part of the pictures of file `index` that a clip of a size shows: left, top, right, bottom in pixels.

        Raises:
            UnusableClip: if the file is damaged.
        """
        entry = self.entries[index]
        with _reading(entry):
            if entry.crop is not None:
                left, top, right, bottom = entry.crop
            else:
                left, top = 0, 0
                bottom, right = self._upright_size(entry, entry.content())
        box = cover_box(bottom - top, right - left, shape.height, shape.width)
        return left + box[0], top + box[1], left + box[2], top + box[3]

    def inspect(self, index: int) -> tuple[Clip, SourceFacts]:
        """Decode the whole of file `index`, so that damage anywhere in it is found.

        Raises:
            UnusableClip: if the file is damaged or too short.
        """
        entry = self.entries[index]
        with _reading(entry):
            content = entry.content()
            if entry.is_image:
                image = read_image(entry.path, content)
                return self._image_clip(entry, image, self.shape), SourceFacts(1, self.fps, *image.shape[:2])
            info = probe(entry.path, content)
            times: list[float] = []
            size = (0, 0)

            def timed() -> Iterator[TimedFrame]:
                nonlocal size
                for frame in decode_frames(entry.path, content):
                    size = frame.pixels.shape[:2] if not times else size
                    times.append(frame.seconds)
                    yield frame

            frames = timed()
            clip = self._video_clip(entry, frames, self.shape, self.min_frames)
            for _ in frames:  # what the clip did not need
                pass
            own = times if entry.cut is None else times[slice(*entry.cut)]
            length = resampled_count(own[-1] - own[0], self.fps)
            return clip, SourceFacts(len(times), info.fps, *size, length, is_variable(times))

    def _image_clip(self, entry: FolderEntry, image: np.ndarray, shape: VideoShape) -> Clip:
        resized = fit_picture(_cropped(entry, image), shape.height, shape.width)
        return Clip(resized[None], entry.captions, self.fps, entry.name)

    def _video_clip(self, entry: FolderEntry, frames: Iterator[TimedFrame], shape: VideoShape, min_frames: int) -> Clip:
        wanted = itertools.islice(resample(_cut(entry, frames), self.fps), shape.num_frames)
        picked = [fit_picture(_cropped(entry, pixels), shape.height, shape.width) for pixels in wanted]
        length = usable_length(len(picked), self.time_compression)
        if length < min_frames:
            detail = f"{len(picked)} frames at {self.fps:g} fps, at least {min_frames} are needed"
            raise UnusableClip("too short", entry.name, detail)
        return Clip(np.stack(picked[:length]), entry.captions, self.fps, entry.name)


def _cut(entry: FolderEntry, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """Pass on the frames of an entry's cut, their clock starting at 0."""
    # Not a generator around all of them: closing one that delegates would close `frames`, which others read on from.
    return frames if entry.cut is None else _from_zero(itertools.islice(frames, *entry.cut))


def _from_zero(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    start = None
    for frame in frames:
        start = frame.seconds if start is None else start
        yield TimedFrame(frame.pixels, frame.seconds - start)


def _cropped(entry: FolderEntry, pixels: np.ndarray) -> np.ndarray:
    if entry.crop is None:
        return pixels
    left, top, right, bottom = entry.crop
    part = pixels[top:bottom, left:right]
    if part.size == 0:
        height, width = pixels.shape[:2]
        raise UnusableClip("crop outside the picture", entry.name, f"{entry.crop} of {width}x{height} pixels")
    return np.ascontiguousarray(part)


@contextlib.contextmanager
def _reading(entry: FolderEntry) -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise UnusableClip("unreadable file", entry.name, error.reason) from error
