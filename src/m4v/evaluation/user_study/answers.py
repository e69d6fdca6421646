"""Answer files of raters: read strictly, doubtful ones marked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from m4v.core.errors import UserError
from m4v.evaluation.user_study.study import Study

ANSWERS_FORMAT = "m4v study answers 1"
_HASTY_SECONDS = 2.0
_FEWEST_FOR_HABITS = 6


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One rater's answers.

    Attributes:
        rater: Random name that the page gave; nothing about the person is recorded.
        ranks: Rank of every method, 1 the best, ties allowed; NaN where not answered or not shown.
        flags: What makes the answers doubtful.
    """

    rater: str
    ranks: Float[np.ndarray, "criteria questions methods"]
    flags: tuple[str, ...]


def checksum(study: str, rater: str, answers: Sequence[Any]) -> str:
    """FNV-1a, 32 bits, as the page computes it: notices edits and truncation, not ill will."""
    parts = [f"{each['question']}:{each['criterion']}:{'-'.join(map(str, each['ranks']))}" for each in answers]
    value = 0x811C9DC5
    for byte in "|".join([study, rater, *parts]).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value:08x}"


def read_answers(path: Path, study: Study) -> Answers:
    """Read one file.

    Raises:
        UserError: if it is cut off, edited, of another study, given without consent, or its ranks are impossible.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); was it cut off? Ask the rater to save it again.") from error
    if not isinstance(content, dict) or content.get("format") != ANSWERS_FORMAT:
        raise UserError(f"{path} is not an answer file of a study page.")
    if content.get("study") != study.identity:
        raise UserError(f"{path} answers study {content.get('study')}; expected {study.identity}.")
    if content.get("consent") is not True:
        raise UserError(f"{path} was saved without consent and must not be used.")
    ranks = np.full((len(study.criteria), len(study.questions), len(study.methods)), np.nan)
    orders, seconds = [], []
    try:
        for each in content["answers"]:
            _place(ranks, study, each)
            orders.append(tuple(each["ranks"]))
            seconds.append(float(each["seconds"]))
        expected = checksum(content["study"], content["rater"], content["answers"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} has an answer that cannot be: {error}. Ask the rater to save it again.") from error
    if content.get("checksum") != expected:
        raise UserError(f"{path} was edited after it was saved, or is damaged. Ask the rater for the original.")
    return Answers(rater=str(content["rater"]), ranks=ranks, flags=_flags(study, orders, seconds))


def _place(ranks: np.ndarray, study: Study, answer: Any) -> None:
    number, given = int(answer["question"]), [int(rank) for rank in answer["ranks"]]
    methods = study.questions[number].methods
    criterion = study.criteria.index(answer["criterion"])
    if number < 0 or len(given) != len(methods) or not all(1 <= rank <= len(methods) for rank in given):
        raise ValueError(f"ranks {given} of question {number}; expected {len(methods)} from 1 to {len(methods)}")
    if not np.isnan(ranks[criterion, number]).all():
        raise ValueError(f"question {number} is answered twice")
    ranks[criterion, number, list(methods)] = given


def _flags(study: Study, orders: Sequence[tuple[int, ...]], seconds: Sequence[float]) -> tuple[str, ...]:
    wanted = len(study.criteria) * len(study.questions)
    flags = []
    if len(orders) < wanted:
        flags.append(f"incomplete: {len(orders)} of {wanted} answers")
    if len(orders) >= _FEWEST_FOR_HABITS:
        if len(set(orders)) == 1:
            flags.append("always the same places")
        if all(len(set(order)) == 1 for order in orders):
            flags.append("nothing but ties")
        if float(np.median(seconds)) < _HASTY_SECONDS:
            flags.append(f"hasty: {float(np.median(seconds)):.1f} s an answer")
    return tuple(flags)
