"""The value that every data source gives: a short captioned video as uint8 frames."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Clip:
    """A captioned video; an image is a clip of one frame.

    Attributes:
        frames: Pictures in the order they are shown.
        captions: Alternative descriptions of the same clip, at least one; training draws one of them each time.
        fps: Frames per second, above 0.
        source: Where the clip comes from, for messages: a path or a name such as `toybox:xs/train/0/12`.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    captions: tuple[str, ...]
    fps: float
    source: str


@dataclass(frozen=True)
class LabelledClip:
    """A clip together with what is known to be in it, as JSON types; written by `data/writer.py`."""

    clip: Clip
    labels: dict[str, object]
