"""Small real data set folders for the tests of this room."""

import json
from pathlib import Path

import numpy as np

from m4v.media.images import write_png
from m4v.media.video import write_video


def numbered_frames(num_frames: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Grey frames whose brightness tells their number: 10, 20, 30, ... (up to 25 frames)."""
    brightness = 10 * np.arange(1, num_frames + 1, dtype=np.uint8)
    return np.broadcast_to(brightness[:, None, None, None], (num_frames, height, width, 3)).copy()


def numbers_of(frames: np.ndarray) -> list[int]:
    """Read back the numbers of `numbered_frames`, counted from 0."""
    return [round(float(frame.mean()) / 10) - 1 for frame in frames]


def make_dataset(parent: Path) -> Path:
    """Three good videos of 9, 17 and 21 frames at 8 fps and one image, listed in metadata.jsonl."""
    root = parent / "dataset"
    rows: list[object] = []
    for name, num_frames in (("a", 9), ("b", 17), ("c", 21)):
        write_video(root / "videos" / f"{name}.mp4", numbered_frames(num_frames), fps=8)
        rows.append({"file_name": f"videos/{name}.mp4", "caption": f"video {name}"})
    write_png(root / "still.png", np.full((50, 70, 3), 120, np.uint8))
    rows.append({"image": "still.png", "text": "a still"})
    write_rows(root, rows)
    return root


def write_rows(root: Path, rows: list[object]) -> None:
    """Write `metadata.jsonl`; strings go in as they are."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
