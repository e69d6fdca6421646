"""Clips from a folder of users' own videos and images, cut to what the model can take."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.clip import Clip
from m4v.data.drops import require_usable
from m4v.data.folder_listing import FolderEntry, MissingCaption, list_folder
from m4v.data.resampling import resample, usable_length
from m4v.data.source import UnusableClip
from m4v.media.images import read_image, resize_cover
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
    """

    num_frames: int
    fps: float
    height: int
    width: int


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
    ) -> None:
        """List the folder; nothing is decoded yet.

        Args:
            root: Folder with `metadata.jsonl`, `metadata.csv`, or a `.txt` beside each file.
            shape: Target size, and the most frames of a clip.
            fps: Target frames per second, above 0.
            time_compression: Frames per latent frame of the autoencoder, at least 1.
            min_frames: Fewest frames of a video; by default one more than `time_compression`, so that it moves. Set it
                to `shape.num_frames` where all clips must be equally long.
            kind: Take only videos, only images, or both.
            missing_caption: Whether a file without caption is left out or gets the empty caption.

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
        self.listing = list_folder(root, missing_caption)
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

    def clip(self, index: int) -> Clip:
        """Decode clip `index`, no further than needed.

        Raises:
            UnusableClip: if the file is damaged or too short.
        """
        entry = self.entries[index]
        with _reading(entry):
            if entry.is_image:
                return self._image_clip(entry, read_image(entry.path))
            return self._video_clip(entry, decode_frames(entry.path))

    def inspect(self, index: int) -> tuple[Clip, SourceFacts]:
        """Decode the whole of file `index`, so that damage anywhere in it is found.

        Raises:
            UnusableClip: if the file is damaged or too short.
        """
        entry = self.entries[index]
        with _reading(entry):
            if entry.is_image:
                image = read_image(entry.path)
                return self._image_clip(entry, image), SourceFacts(1, self.fps, *image.shape[:2])
            info = probe(entry.path)
            num_frames = 0

            def counted() -> Iterator[TimedFrame]:
                nonlocal num_frames
                for frame in decode_frames(entry.path):
                    num_frames += 1
                    yield frame

            frames = counted()
            clip = self._video_clip(entry, frames)
            for _ in frames:  # what the clip did not need
                pass
            return clip, SourceFacts(num_frames, info.fps, info.height, info.width)

    def _image_clip(self, entry: FolderEntry, image: np.ndarray) -> Clip:
        resized = resize_cover(image, self.shape.height, self.shape.width)
        return Clip(resized[None], entry.captions, self.fps, entry.name)

    def _video_clip(self, entry: FolderEntry, frames: Iterator[TimedFrame]) -> Clip:
        wanted = itertools.islice(resample(frames, self.fps), self.shape.num_frames)
        picked = [resize_cover(pixels, self.shape.height, self.shape.width) for pixels in wanted]
        length = usable_length(len(picked), self.time_compression)
        if length < self.min_frames:
            detail = f"{len(picked)} frames at {self.fps:g} fps, at least {self.min_frames} are needed"
            raise UnusableClip("too short", entry.name, detail)
        return Clip(np.stack(picked[:length]), entry.captions, self.fps, entry.name)


@contextlib.contextmanager
def _reading(entry: FolderEntry) -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise UnusableClip("unreadable file", entry.name, error.reason) from error
