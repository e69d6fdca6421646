"""What a study asks, in the two forms that must not meet: what raters see, and which method is which."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed

Mode = Literal["rank", "pairwise"]
CRITERIA = ("aesthetic quality", "motion smoothness", "semantic coherence")
"""Those of the paper (B.2)."""
KEY_FORMAT = "m4v study key 1"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Videos of one prompt, in the order they are shown.

    Attributes:
        methods: Index of the method behind each place.
    """

    prompt: str
    methods: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study with its key.

    Attributes:
        methods: Names of what is compared.
        criteria: What is judged, one after the other.
        questions: In the order they are asked.
        seed: Of the order of places and questions.
    """

    methods: tuple[str, ...]
    criteria: tuple[str, ...]
    questions: tuple[Question, ...]
    mode: Mode
    seed: int

    @property
    def identity(self) -> str:
        """Name of exactly this study; answers carry it."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:16]

    def _content(self) -> dict[str, Any]:
        return {
            "methods": list(self.methods),
            "criteria": list(self.criteria),
            "mode": self.mode,
            "seed": self.seed,
            "questions": [{"prompt": each.prompt, "methods": list(each.methods)} for each in self.questions],
        }

    def key(self) -> dict[str, Any]:
        """What only the analysis may know."""
        return {"format": KEY_FORMAT, "study": self.identity, **self._content()}

    def file_name(self, number: int, place: int) -> str:
        """Blind name of a video."""
        digest = hashlib.sha256(f"{self.identity}/{number}/{place}".encode()).hexdigest()
        return f"{digest[:16]}.mp4"

    @classmethod
    def plan(
        cls,
        methods: Sequence[str],
        prompts: Sequence[str],
        *,
        mode: Mode = "rank",
        criteria: Sequence[str] = CRITERIA,
        seed: int = 0,
    ) -> Self:
        """Shuffle places and questions by a seed.

        Raises:
            UserError: for fewer than two methods, no prompts or no criteria, or names that occur twice.
        """
        for what, names, least in (("methods", methods, 2), ("prompts", prompts, 1), ("criteria", criteria, 1)):
            if len(names) < least or len(set(names)) < len(names):
                raise UserError(f"{what}: {', '.join(names) or 'none'}; expected at least {least}, all different.")
        asked = [
            (prompt, group)
            for prompt in prompts
            for group in (
                [tuple(range(len(methods)))] if mode == "rank" else list(combinations(range(len(methods)), 2))
            )
        ]
        questions = [
            Question(prompt=prompt, methods=tuple(np.array(group)[_order(len(group), seed, prompt, *group)].tolist()))
            for prompt, group in asked
        ]
        order = _order(len(questions), seed, "questions")
        return cls(
            methods=tuple(methods),
            criteria=tuple(criteria),
            questions=tuple(questions[index] for index in order),
            mode=mode,
            seed=seed,
        )

    @classmethod
    def read_key(cls, path: Path) -> Self:
        """Read the key that was written beside the page.

        Raises:
            UserError: if it is none, or was changed.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            study = cls(
                methods=tuple(content["methods"]),
                criteria=tuple(content["criteria"]),
                questions=tuple(
                    Question(prompt=each["prompt"], methods=tuple(each["methods"])) for each in content["questions"]
                ),
                mode=content["mode"],
                seed=content["seed"],
            )
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not the key of a study ({error}); give the file key.json of study build."
            ) from error
        if content.get("format") != KEY_FORMAT or content.get("study") != study.identity:
            raise UserError(f"{path} was changed since study build wrote it; take the original.")
        return study


def _order(count: int, seed: int, *labels: int | str) -> list[int]:
    return sorted(range(count), key=lambda index: fold_seed(seed, "study", *labels, index))
