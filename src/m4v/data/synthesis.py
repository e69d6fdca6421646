"""Synthetic training videos from a text-to-video model: which to make, on which rank, and what was made.

Source: Sec. 4.5 and Appendix D (about 80,000 videos of another model for quality tuning).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.core.seeds import fold_seed
from m4v.data.writer import METADATA
from m4v.media.video import write_video

_ROWS = "rows"
_SEED_BITS = 32  # what every generator takes


@dataclass(frozen=True)
class Prompt:
    """A sentence, and the tags that came with it."""

    text: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class SyntheticVideo:
    """One video to make; its seed depends on the run's seed, the sentence and the copy only, never on its place."""

    prompt: Prompt
    seed: int
    name: str


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts: one a line, or JSON objects {"prompt", "tags"} one a line; blank lines and # are passed over.

    Raises:
        UserError: if the file cannot be read, a row has no prompt, or none is left.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"Cannot read {path}: {reason}.") from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        prompt = _json_prompt(path, number, line) if path.suffix == ".jsonl" else Prompt(" ".join(line.split()))
        prompts.setdefault(prompt.text, prompt)  # a sentence twice would be the same videos twice
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one per line.")
    return list(prompts.values())


def _json_prompt(path: Path, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
        text, tags = row["prompt"], row.get("tags", [])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        text, tags = None, []
    if not isinstance(text, str) or not text.strip() or not isinstance(tags, list):
        raise UserError(f'{path} line {number} is {line!r}; expected {{"prompt": "...", "tags": ["...", ...]}}.')
    return Prompt(" ".join(text.split()), tuple(map(str, tags)))


def plan_videos(prompts: list[Prompt], num_copies: int, seed: int) -> list[SyntheticVideo]:
    """List all videos, copy by copy, so that a run cut short has some of every prompt."""
    return [
        SyntheticVideo(prompt, video_seed, f"{video_seed:08x}-{fold_seed(0, prompt.text) % 16**8:08x}")
        for copy in range(num_copies)
        for prompt in prompts
        for video_seed in [fold_seed(seed, "synthetic", prompt.text, copy) % 2**_SEED_BITS]
    ]


def synthesize(
    root: Path,
    videos: list[SyntheticVideo],
    generate: Callable[[str, int], np.ndarray],
    *,
    fps: float,
    facts: Mapping[str, Any],
    rank: int = 0,
    num_ranks: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make the videos of one rank (every `num_ranks`-th) that are not there yet.

    A video counts once its row stands in `rows/`, which is written after the video. `merge_rows` makes
    `metadata.jsonl` of them.

    Args:
        root: The folder.
        videos: All videos, of all ranks.
        generate: (prompt, seed) -> uint8 frames `t h w 3`.
        fps: Frames per second to write.
        facts: What made them (model, revision, steps, guidance), for every row. Videos made with other facts stop it.
        rank: This process.
        num_ranks: Processes in all.
        on_progress: Called with (videos there, videos of this rank).

    Returns:
        How many were made now.

    Raises:
        UserError: if a video there was made otherwise, or the folder cannot be written.
    """
    own = videos[rank::num_ranks]
    num_made = 0
    for count, video in enumerate(own, start=1):
        row_path, file_name = root / _ROWS / f"{video.name}.json", f"videos/{video.name}.mp4"
        if row_path.is_file() and (root / file_name).is_file():
            _require_same(root, row_path, facts)
        else:
            frames = generate(video.prompt.text, video.seed)
            write_video(root / file_name, frames, fps)
            row = {
                "file_name": file_name,
                "caption": video.prompt.text,
                "prompt": video.prompt.text,
                "tags": list(video.prompt.tags),
                "seed": video.seed,
                **facts,
                "frames": len(frames),
                "num_frames": len(frames),
                "height": frames.shape[1],
                "width": frames.shape[2],
                "fps": fps,
                "source": "synthetic",
            }
            with atomic_path(row_path) as temporary:
                temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
            num_made += 1
        if on_progress:
            on_progress(count, len(own))
    return num_made


def merge_rows(root: Path, videos: list[SyntheticVideo]) -> int:
    """Write `metadata.jsonl` of all rows there: those of `videos` in their order, then others by name.

    Any rank may do this at any time; the file is replaced as a whole. Returns the number of rows.
    """
    names = [f"{video.name}.json" for video in videos]
    others = sorted({path.name for path in (root / _ROWS).glob("[!.]*.json")} - set(names))
    paths = [root / _ROWS / name for name in [*names, *others]]
    rows = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    with atomic_path(root / METADATA) as temporary:
        temporary.write_text("".join(rows), encoding="utf-8")
    return len(rows)


def _require_same(root: Path, row_path: Path, facts: Mapping[str, Any]) -> None:
    found = json.loads(row_path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(dict(facts)))
    changed = [f"{key} {found.get(key)} -> {value}" for key, value in wanted.items() if found.get(key) != value]
    if changed:
        raise UserError(
            f"{root} holds videos that were made otherwise: {'; '.join(changed)}. Repeat what made them, or choose "
            "another folder."
        )
