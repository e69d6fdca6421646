"""VBench's prompts, read from the user's own copy of its repository or package."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.evaluation.vbench.dimensions import DIMENSIONS

FULL_INFO = "VBench_full_info.json"
VIDEOS_PER_PROMPT = 5
NUM_PROMPTS = 944
"""Distinct prompts of the standard suite."""


@dataclass(frozen=True, kw_only=True)
class SuitePrompt:
    """One distinct prompt.

    Attributes:
        text: The prompt; videos are named after it.
        dimensions: What its videos are scored on.
    """

    text: str
    dimensions: tuple[str, ...]

    def file_name(self, index: int) -> str:
        """Name that VBench looks for."""
        return f"{self.text}-{index}.mp4"


def read_suite(place: Path | str, dimensions: Sequence[str] = ()) -> tuple[SuitePrompt, ...]:
    """Read the standard prompts in VBench's order, each once.

    Args:
        place: `VBench_full_info.json`, or a folder that holds it at any depth of two.
        dimensions: Keep prompts of these only; none keeps all.

    Raises:
        UserError: if there is no such file, it has another form, or a dimension is unknown.
    """
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown:
        raise UserError(f"There is no dimension {', '.join(unknown)}; expected some of {', '.join(DIMENSIONS)}.")
    path = _find(Path(place))
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Take the file from VBench's repository again.") from error
    found: dict[str, list[str]] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        text, names = _prompt_of(path, number, entry)
        found.setdefault(text, []).extend(name for name in names if name not in found.get(text, ()))
    wanted = set(dimensions or DIMENSIONS)
    prompts = tuple(
        SuitePrompt(text=text, dimensions=tuple(names)) for text, names in found.items() if wanted & set(names)
    )
    if not prompts:
        raise UserError(f"{path} has no prompt for {', '.join(dimensions)}; is it the file of the standard suite?")
    return prompts


def _find(place: Path) -> Path:
    if place.is_file():
        return place
    candidates = [place / FULL_INFO, place / "vbench" / FULL_INFO, *sorted(place.glob(f"*/{FULL_INFO}"))]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise UserError(
            f"{place} holds no {FULL_INFO}; give the folder of a copy of VBench's repository (pip download vbench, or "
            "git clone), or that file."
        )
    return path


def _prompt_of(path: Path, number: int, entry: Any) -> tuple[str, Sequence[str]]:
    text = entry.get("prompt_en") if isinstance(entry, Mapping) else None
    names = entry.get("dimension") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or not isinstance(names, list) or not all(name in DIMENSIONS for name in names):
        raise UserError(
            f"Entry {number} of {path} is not a prompt of the text-to-video suite: expected 'prompt_en' and a list "
            "'dimension' of its 16 dimensions. Another VBench version or suite has another file."
        )
    if "/" in text or text != text.strip() or not text:
        raise UserError(f"Entry {number} of {path} is {text!r}, which cannot be a file name.")
    return text, names


def case_clashes(prompts: Sequence[SuitePrompt]) -> tuple[str, ...]:
    """Prompts that a disk which ignores case cannot keep apart."""
    counts = Counter(prompt.text.casefold() for prompt in prompts)
    return tuple(prompt.text for prompt in prompts if counts[prompt.text.casefold()] > 1)


def draw_stratified(prompts: Sequence[SuitePrompt], count: int, seed: int) -> tuple[SuitePrompt, ...]:
    """Draw prompts for a fast protocol: suites take turns, each in an order that its seed shuffles.

    A prompt belongs to the suite of its first dimension. The paper's own 50 prompts are not published; this rule is
    ours, and the hash of the list belongs into every report.

    Raises:
        UserError: if there are not so many prompts.
    """
    if not 1 <= count <= len(prompts):
        raise UserError(f"Cannot draw {count} prompts out of {len(prompts)}; expected a count in that range.")
    suites: dict[str, list[SuitePrompt]] = {}
    for prompt in prompts:
        suites.setdefault(DIMENSIONS[prompt.dimensions[0]].suite, []).append(prompt)
    ranked = [
        (rank, suite, prompt)
        for suite, members in suites.items()
        for rank, prompt in enumerate(sorted(members, key=lambda member: fold_seed(seed, "fast", member.text)))
    ]
    ranked.sort(key=lambda each: (each[0], fold_seed(seed, "suite", each[0], each[1])))
    return tuple(prompt for _, _, prompt in ranked[:count])
