"""Videos for VBench's standard suite: named as it expects, resumable, with a record of everything that moves scores."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.core.seeds import fold_seed
from m4v.evaluation.vbench.suite import VIDEOS_PER_PROMPT, SuitePrompt, case_clashes
from m4v.media.video import write_video

MANIFEST = "manifest.json"
_LONGEST_NAME = 255


class MakeVideo(Protocol):
    """Text to frames."""

    def __call__(self, prompt: str, seed: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Make one video."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What is exported.

    Attributes:
        prompts: Videos are named after these.
        spoken: What the model is told instead, by prompt: lengthened prompts.
        num_per_prompt: Videos per prompt, with different seeds.
        seed: Root of the seeds: video i of a prompt has `fold_seed(seed, "vbench", prompt, i)`.
        fps: Frames per second of the files.
        facts: Everything else that moves scores: model and its hash, frames, size, steps, guidance.
    """

    prompts: tuple[SuitePrompt, ...]
    fps: float
    facts: Mapping[str, Any]
    spoken: Mapping[str, str]
    num_per_prompt: int = VIDEOS_PER_PROMPT
    seed: int = 0

    def seed_of(self, prompt: SuitePrompt, index: int) -> int:
        """Seed of one video; depends on nothing else that is exported."""
        return fold_seed(self.seed, "vbench", prompt.text, index)

    def to_plain(self) -> dict[str, Any]:
        """What `manifest.json` says."""
        listed = "\n".join(prompt.text for prompt in self.prompts)
        return {
            "format": "m4v vbench export 1",
            **dict(self.facts),
            "fps": self.fps,
            "seed": self.seed,
            "videos_per_prompt": self.num_per_prompt,
            "prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(listed.encode()).hexdigest(),
            "prompt_form": "lengthened" if self.spoken else "plain",
            "spoken_sha256": hashlib.sha256(json.dumps(dict(self.spoken), sort_keys=True).encode()).hexdigest()
            if self.spoken
            else None,
        }


def export_videos(
    plan: ExportPlan, folder: Path, make: MakeVideo, on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Make the videos that are not there yet; each appears whole or not at all.

    Returns:
        How many were made now.

    Raises:
        UserError: if the folder holds videos of other settings, its disk cannot keep all names apart, or it cannot be
            written.
    """
    _check_names(plan)
    _check_manifest(plan, folder)
    wanted = [(prompt, index) for prompt in plan.prompts for index in range(plan.num_per_prompt)]
    made = 0
    for done, (prompt, index) in enumerate(wanted, start=1):
        target = folder / prompt.file_name(index)
        if not target.exists():
            frames = make(plan.spoken.get(prompt.text, prompt.text), plan.seed_of(prompt, index))
            write_video(target, frames, plan.fps)
            made += 1
        if on_progress is not None:
            on_progress(done, len(wanted))
    return made


def _check_names(plan: ExportPlan) -> None:
    longest = max((prompt.file_name(plan.num_per_prompt - 1) for prompt in plan.prompts), key=lambda n: len(n.encode()))
    if len(longest.encode()) > _LONGEST_NAME:
        raise UserError(f"The prompt {longest!r} makes a file name of more than {_LONGEST_NAME} bytes.")


def _check_manifest(plan: ExportPlan, folder: Path) -> None:
    path = folder / MANIFEST
    facts = json.loads(json.dumps(plan.to_plain()))
    if path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); name another folder.") from error
        different = sorted(key for key in facts.keys() | earlier.keys() if facts.get(key) != earlier.get(key))
        if different:
            lines = "\n".join(f"  {key}: {earlier.get(key)} there, {facts.get(key)} now" for key in different)
            raise UserError(f"{folder} holds videos made with other settings:\n{lines}\nName another folder.")
        return
    if folder.is_dir() and any(folder.glob("*.mp4")):
        raise UserError(f"{folder} holds videos but no {MANIFEST}, so nobody knows how they were made. Name another.")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if _ignores_case(path) and (clashing := case_clashes(plan.prompts)):
        path.unlink()
        raise UserError(
            f"The disk of {folder} ignores case and cannot keep these prompts apart: {'; '.join(clashing)}. Export to "
            "a disk that does not."
        )


def _ignores_case(path: Path) -> bool:
    return path.with_name(path.name.swapcase()).exists()


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """What a folder lacks.

    Attributes:
        expected: Videos there should be.
        missing: Names that are not there.
        empty: Names of files without content.
        unexpected: mp4 files that no prompt asks for, misnamed ones among them.
    """

    expected: int
    missing: tuple[str, ...]
    empty: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether VBench would find every video."""
        return not self.missing and not self.empty


def check_completeness(
    prompts: Sequence[SuitePrompt], folder: Path, num_per_prompt: int = VIDEOS_PER_PROMPT
) -> Completeness:
    """Compare a folder with what the suite asks for; VBench itself only warns of missing videos.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of exported videos.")
    names = [prompt.file_name(index) for prompt in prompts for index in range(num_per_prompt)]
    sizes = {entry.name: entry.stat().st_size for entry in folder.glob("*.mp4")}
    return Completeness(
        expected=len(names),
        missing=tuple(name for name in names if name not in sizes),
        empty=tuple(name for name in names if sizes.get(name) == 0),
        unexpected=tuple(sorted(sizes.keys() - set(names))),
    )
