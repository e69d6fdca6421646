"""Turns verdicts into shares with intervals, and into tables of what is mistaken for what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final, Literal, get_args

from m4v.toybox.oracles.verdict import Verdict
from m4v.toybox.records import Scene

Axis = Literal["colour", "object", "motion"]
AXES: Final[tuple[Axis, ...]] = get_args(Axis)

NOTHING: Final = "nothing"
"""Stands in tables for a clip in which the judge found no object."""

_JUDGED_MOTIONS: Final = {
    **{
        name: name
        for name in ("still", "left", "right", "toward", "away", "jumps", "rises", "falls", "grows", "shrinks")
    },
    "bounces": "jumps",
}
"""What the judge should say of the motions of the world; clips with others do not count on that axis."""


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """What a clip should show and what the judge saw; None: not stated, or nothing seen."""

    expected: Mapping[Axis, str | None]
    found: Mapping[Axis, str | None]

    def is_right(self, axis: Axis) -> bool:
        """Tell whether the judge saw what was expected."""
        return self.expected[axis] is not None and self.expected[axis] == self.found[axis]


def expected_of(scene: Scene) -> dict[Axis, str | None]:
    """Return what the judge should see of a scene's first object."""
    item = scene.objects[0]
    motion = _JUDGED_MOTIONS.get(item.motions[0].name) if len(item.motions) == 1 else None
    return {"colour": item.colour, "object": item.kind, "motion": motion}


def found_in(verdict: Verdict) -> dict[Axis, str | None]:
    """Return what the judge saw."""
    return {"colour": verdict.colour, "object": verdict.object, "motion": verdict.motion}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Shares of clips that show what they should, from 0 to 1.

    Attributes:
        all: Share with everything right at once.
        intervals: 95 % Wilson interval of every axis.
        num_clips: Clips that count, per axis.
    """

    colour: float
    object: float
    motion: float
    all: float
    intervals: Mapping[Axis, tuple[float, float]]
    num_clips: Mapping[Axis, int]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types, shares rounded to four places."""
        return {
            **{axis: round(getattr(self, axis), 4) for axis in AXES},
            "all": round(self.all, 4),
            "intervals": {axis: [round(bound, 4) for bound in self.intervals[axis]] for axis in AXES},
            "clips": dict(self.num_clips),
        }


def score(clips: Sequence[JudgedClip]) -> Scores:
    """Count what is right; an axis that no clip states scores 0 with the interval (0, 1)."""
    right = {axis: sum(clip.is_right(axis) for clip in clips) for axis in AXES}
    stated = {axis: sum(clip.expected[axis] is not None for clip in clips) for axis in AXES}
    whole = sum(all(clip.is_right(axis) for axis in AXES if clip.expected[axis] is not None) for clip in clips)
    return _scores({axis: float(count) for axis, count in right.items()}, stated, float(whole), len(clips))


def score_wrong_captions(clips: Sequence[JudgedClip]) -> Scores:
    """Score every clip against every other clip's caption: what agreement by accident gives.

    Intervals are those of as many independent clips as there are.
    """
    right = dict.fromkeys(AXES, 0.0)
    stated = dict.fromkeys(AXES, 0)
    whole = 0.0
    others = max(len(clips) - 1, 1)
    for number, caption in enumerate(clips):
        found = [clip.found for other, clip in enumerate(clips) if other != number]
        pairs = [JudgedClip(expected=caption.expected, found=other) for other in found]
        for axis in AXES:
            right[axis] += sum(pair.is_right(axis) for pair in pairs) / others
            stated[axis] += caption.expected[axis] is not None
        whole += sum(all(p.is_right(axis) for axis in AXES if p.expected[axis] is not None) for p in pairs) / others
    return _scores(right, stated, whole, len(clips))


def _scores(right: Mapping[Axis, float], stated: Mapping[Axis, int], whole: float, num_clips: int) -> Scores:
    shares = {axis: right[axis] / stated[axis] if stated[axis] else 0.0 for axis in AXES}
    return Scores(
        **shares,
        all=whole / num_clips if num_clips else 0.0,
        intervals={axis: wilson_interval(right[axis], stated[axis]) for axis in AXES},
        num_clips=dict(stated),
    )


def wilson_interval(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share; (0, 1) without trials.

    Args:
        successes: Count, from 0 to `trials`.
        z: Normal quantile; 1.96 for 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each expected value (row) was seen as each value (column, `NOTHING` last if it occurs)."""

    axis: Axis
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return expected -> seen -> count, zeros left out."""
        return {
            row: {column: count for column, count in zip(self.columns, line, strict=True) if count}
            for row, line in zip(self.rows, self.counts, strict=True)
        }


def confusion(clips: Sequence[JudgedClip], axis: Axis) -> Confusion:
    """Count what was seen for everything that was expected, in order of first appearance."""
    pairs = Counter((clip.expected[axis], clip.found[axis] or NOTHING) for clip in clips)
    rows = list(dict.fromkeys(clip.expected[axis] for clip in clips if clip.expected[axis] is not None))
    seen = {found for (expected, found) in pairs if expected is not None}
    extra = sorted(seen - set(rows) - {NOTHING})
    columns = [row for row in rows if row is not None] + extra + ([NOTHING] if NOTHING in seen else [])
    return Confusion(
        axis=axis,
        rows=tuple(row for row in rows if row is not None),
        columns=tuple(columns),
        counts=tuple(tuple(pairs[row, column] for column in columns) for row in rows),
    )
