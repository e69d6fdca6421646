"""Leaves what was judged on disk for people to look at: captioned contact sheets, mp4 files and one line per clip."""

import json
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from m4v.core.files import atomic_path
from m4v.evaluation.scores import AXES, JudgedClip
from m4v.evaluation.toybox_benchmark import BenchmarkReport, GroupResult
from m4v.media.images import write_png
from m4v.media.video import write_video
from m4v.toybox.contact_sheet import contact_sheet

_COLUMNS: Final = 3
_FRAMES: Final = 6
_TEXT_HEIGHT: Final = 24
_RIGHT: Final = (0, 110, 40)
_WRONG: Final = (190, 0, 0)


def save_clips(report: BenchmarkReport, folder: Path) -> tuple[Path, ...]:
    """Write `NAME.png`, `NAME.jsonl` and `NAME/NNN.mp4` for both prompt lists; return the contact sheets.

    Raises:
        UserError: If the folder cannot be written.
    """
    sheets = []
    for name, group in report.groups.items():
        sheets.append(folder / f"{name}.png")
        write_png(sheets[-1], captioned_sheet(group))
        lines = []
        for number, (prompt, clip, judged) in enumerate(zip(group.prompts, group.clips, group.judged, strict=True)):
            file = Path(name) / f"{number:03d}.mp4"
            write_video(folder / file, clip, prompt.scene.fps)
            entry = {"file": file.as_posix(), "prompt": prompt.text}
            lines.append(json.dumps({**entry, "expected": dict(judged.expected), "found": dict(judged.found)}))
        with atomic_path(folder / f"{name}.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tuple(sheets)


def captioned_sheet(group: GroupResult) -> UInt8[np.ndarray, "h w 3"]:
    """Return strips of frames under their prompts and what the judge saw, in red where it differs."""
    cells = [
        np.concatenate([_text(prompt.text, judged, strip.shape[1]), strip])
        for prompt, judged, strip in (
            (prompt, judged, contact_sheet([clip], frames_per_video=_FRAMES))
            for prompt, judged, clip in zip(group.prompts, group.judged, group.clips, strict=True)
        )
    ]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[start : start + _COLUMNS], axis=1) for start in range(0, len(cells), _COLUMNS)]
    return np.concatenate(rows)


def _text(prompt: str, judged: JudgedClip, width: int) -> UInt8[np.ndarray, "h w 3"]:
    image = Image.new("RGB", (width, _TEXT_HEIGHT), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw.text((3, 0), prompt, fill=(0, 0, 0))
    x = 3.0
    for axis in AXES:
        word = judged.found[axis] or "nothing"
        is_fine = judged.is_right(axis) or judged.expected[axis] is None
        draw.text((x, 11), word, fill=_RIGHT if is_fine else _WRONG)
        x += draw.textlength(word + "  ")
    return np.asarray(image)
