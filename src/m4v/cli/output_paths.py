"""Where videos go: names made from prompts, checked for writability before any work begins."""

import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from m4v.core.errors import UserError
from m4v.core.files import existing_ancestor

DEFAULT_FOLDER = Path("outputs")
_SLUG_LENGTH = 60
_OTHER_MEDIA = (".gif", ".png", ".jpg", ".jpeg", ".webm", ".avi", ".mov", ".mkv", ".webp")


@dataclass(frozen=True)
class VideoJob:
    """One video to make."""

    prompt: str
    seed: int
    path: Path


def plan_jobs(prompts: list[str], seed: int, copies: int, out: str | None) -> list[VideoJob]:
    """Give every prompt and seed its file.

    Args:
        prompts: What to make.
        seed: Seed of the first copy of each prompt; the next copies take the next seeds.
        copies: Videos per prompt, at least 1.
        out: An .mp4 path (for a single video), a folder, or None for `outputs/`.

    Raises:
        UserError: if `out` is a file name for several videos or ends like another kind of file.
    """
    pairs = [(prompt, seed + copy) for prompt in prompts for copy in range(copies)]
    target = DEFAULT_FOLDER if out is None else Path(out)
    is_folder = out is None or out.endswith(("/", "\\")) or target.is_dir()
    suffix = target.suffix.lower()
    if not is_folder and suffix in _OTHER_MEDIA:
        raise UserError(f"--out is {out}, but videos are written as .mp4 (add --gif for a GIF beside it).")
    if not is_folder and suffix == ".mp4":
        if len(pairs) > 1:
            raise UserError(f"--out is the file {out}, but {len(pairs)} videos are asked for; name a folder.")
        return [VideoJob(*pairs[0], target)]
    jobs: list[VideoJob] = []
    taken: set[Path] = set()
    for prompt, video_seed in pairs:
        path = target / f"{slug(prompt)}-seed{video_seed}.mp4"
        number = 2
        while path in taken:
            path = target / f"{slug(prompt)}-{number}-seed{video_seed}.mp4"
            number += 1
        taken.add(path)
        jobs.append(VideoJob(prompt, video_seed, path))
    return jobs


def slug(prompt: str) -> str:
    """Make a file name of a prompt: plain letters, digits and dashes, cut at a word."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:_SLUG_LENGTH]
        if len(longer) > _SLUG_LENGTH:
            break
        name = longer
    return name or "video"


def require_writable(path: Path, flag: str = "--out") -> None:
    """Find out before the work whether a file can be made, by making and removing one in the nearest existing folder.

    Raises:
        UserError: if the place is a folder or a device, lies below a file, or refuses new files.
    """
    try:
        if path.is_dir():
            raise UserError(f"Cannot write {path}: it is a folder. Choose another name.")
        if path.exists() and not path.is_file():
            raise UserError(f"Cannot write {path}: it is neither a file nor a folder. Choose another name.")
        with tempfile.TemporaryFile(dir=existing_ancestor(path.parent)):
            pass
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}. Choose another place with {flag}.") from error
