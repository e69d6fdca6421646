"""Follows the objects of a clip from frame to frame."""

from dataclasses import dataclass

import numpy as np

from m4v.toybox.oracles.segmentation import Blob, Segmentation


@dataclass(frozen=True, kw_only=True)
class Track:
    """One object through the clip: a blob per frame in which it was found, in order of time."""

    blobs: tuple[Blob, ...]
    num_frames: int

    @property
    def presence(self) -> float:
        """Share of the frames in which the object was found."""
        return len(self.blobs) / self.num_frames

    @property
    def area(self) -> float:
        """Usual number of pixels."""
        return float(np.median([blob.area for blob in self.blobs]))

    def clear_blobs(self, wanted: int) -> tuple[Blob, ...]:
        """Return the blobs that lie wholly inside the picture, or all of them if fewer than `wanted` do."""
        inside = tuple(blob for blob in self.blobs if not blob.touches_border)
        return inside if len(inside) >= wanted else self.blobs


def follow(seg: Segmentation) -> tuple[Track, ...]:
    """Link blobs of consecutive frames that are near each other and alike in colour; most prominent track first."""
    num_frames = len(seg.blobs)
    tracks: list[list[Blob]] = []
    for blobs in seg.blobs:
        free = list(range(len(tracks)))
        pairs = sorted(
            (_distance(tracks[index][-1], blob), number, index) for number, blob in enumerate(blobs) for index in free
        )
        taken: set[int] = set()
        for distance, number, index in pairs:
            if distance < 1.5 and index in free and number not in taken:
                tracks[index].append(blobs[number])
                free.remove(index)
                taken.add(number)
        tracks += [[blob] for number, blob in enumerate(blobs) if number not in taken]
    found = (Track(blobs=tuple(blobs), num_frames=num_frames) for blobs in tracks)
    return tuple(sorted(found, key=lambda track: -track.presence * track.area))


def _distance(before: Blob, after: Blob) -> float:
    """Distance of the middles in object widths, plus one for another colour."""
    width = max(before.area, after.area) ** 0.5
    return float(np.hypot(before.x - after.x, before.y - after.y)) / width + float(before.colour != after.colour)
