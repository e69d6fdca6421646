"""One picture of what two models make of the same prompts and seeds, with real clips above where there are any."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from m4v.core.errors import UserError
from m4v.toybox.contact_sheet import contact_sheet

Video = UInt8[np.ndarray, "t h w 3"]

_FRAMES: Final = 8
_LABEL_WIDTH: Final = 90
_TITLE_HEIGHT: Final = 20
_GAP_HEIGHT: Final = 6


@dataclass(frozen=True)
class ComparedPrompt:
    """What is shown for one prompt.

    Attributes:
        prompt: The sentence.
        videos: Videos by label, top to bottom; None where a model could not read the prompt.
    """

    prompt: str
    videos: Mapping[str, Video | None]


def make_videos(
    pipeline: Any, prompts: Sequence[str], *, seed: int, on_progress: Callable[[int, int], None]
) -> list[Video | None]:
    """Make a video of every prompt, each with the same seed and the model's own settings.

    Args:
        pipeline: A pipeline of either base.
        prompts: Sentences; one that holds no word the model knows gives None.
        seed: Seed of the noise.
        on_progress: Told how many of how many are done.
    """
    videos: list[Video | None] = []
    for number, prompt in enumerate(prompts):
        try:
            videos.append(np.concatenate(list(pipeline.stream(prompt, seed=seed, decode_last=True)), axis=1)[0])
        except UserError:
            videos.append(None)
        on_progress(number + 1, len(prompts))
    return videos


def comparison_sheet(rows: Sequence[ComparedPrompt]) -> UInt8[np.ndarray, "height width 3"]:
    """Draw, for every prompt, its words and a labelled strip of frames per video.

    Args:
        rows: At least one, with a video in one of them at least; videos of other sizes are scaled to the first's.

    Raises:
        UserError: if there is no video at all.
    """
    known = [video for row in rows for video in row.videos.values() if video is not None]
    if not known:
        raise UserError("Neither model knows a word of the prompts; use words from the training captions.")
    height, width = known[0].shape[1:3]
    parts: list[np.ndarray] = []
    for row in rows:
        strips = [
            _labelled(label, np.zeros((1, height, width, 3), np.uint8) if video is None else video, (width, height))
            for label, video in row.videos.items()
        ]
        sheet_width = strips[0].shape[1]
        parts += [_text(row.prompt, sheet_width, _TITLE_HEIGHT), *strips, _text("", sheet_width, _GAP_HEIGHT)]
    return np.concatenate(parts)


def _labelled(label: str, video: Video, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    if video.shape[1:3] != (size[1], size[0]):
        video = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in video])
    strip = contact_sheet([video], columns=1, frames_per_video=_FRAMES)
    return np.concatenate([_text(label, _LABEL_WIDTH, strip.shape[0]), strip], axis=1)


def _text(text: str, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    image = Image.new("RGB", (width, height), (255, 255, 255))
    ImageDraw.Draw(image).text((4, 3), text, fill=(0, 0, 0))
    return np.asarray(image)
