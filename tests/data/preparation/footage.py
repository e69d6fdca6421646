"""Long synthetic videos with cuts at known frames."""

from pathlib import Path

import numpy as np

from m4v.media.video import write_video

COLOURS = ((200, 60, 40), (30, 90, 210), (60, 190, 80), (220, 210, 90))


def shot(kind: int, num_frames: int, height: int = 96, width: int = 128, *, moves: bool = True) -> np.ndarray:
    """A patterned background with a square that moves two pixels a frame, different for every `kind`."""
    rows, columns = np.mgrid[0:height, 0:width]
    pattern = ((rows // (6 + 3 * kind) + columns // (8 + 2 * kind)) % 2)[..., None] * 40
    frames = np.stack([(np.array(COLOURS[kind]) * 0.75 + pattern).clip(0, 255).astype(np.uint8)] * num_frames)
    for index in range(num_frames):
        left = (7 * kind + (2 * index if moves else 0)) % (width - 24)
        frames[index, 20 + 10 * kind : 44 + 10 * kind, left : left + 24] = 255 - np.array(COLOURS[kind])
    return frames


def two_shots(path: Path, first: int = 60, second: int = 72, fps: float = 24) -> Path:
    """A video with one cut, before frame `first`."""
    write_video(path, np.concatenate([shot(0, first), shot(1, second)]), fps)
    return path
