"""Choosing by the scores that published annotation files carry."""

from collections.abc import Sequence
from dataclasses import dataclass

from m4v.core.errors import UserError
from m4v.data.folder_entry import EntryOrDrop, FolderEntry
from m4v.data.source import UnusableClip


@dataclass(frozen=True, kw_only=True)
class ScoreFilter:
    """Bounds of one score; an entry without the score is dropped.

    Attributes:
        score: Name, such as `aesthetic`, `motion`, `fps`, `seconds`, `height`.
        minimum: Smallest value kept; None: no bound.
        maximum: Largest value kept; None: no bound.
    """

    score: str
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.minimum is None and self.maximum is None:
            raise UserError(f"The filter of {self.score} has no bound; give a minimum or a maximum.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise UserError(f"The filter of {self.score} keeps {self.minimum:g} to {self.maximum:g}, which is nothing.")

    def problem(self, entry: FolderEntry) -> UnusableClip | None:
        """Tell why an entry is not kept."""
        if self.score not in entry.facts:
            return UnusableClip(f"no {self.score} score", entry.name)
        value = entry.facts[self.score]
        if self.minimum is not None and value < self.minimum:
            return UnusableClip(f"{self.score} below {self.minimum:g}", entry.name, f"{value:g}")
        if self.maximum is not None and value > self.maximum:
            return UnusableClip(f"{self.score} above {self.maximum:g}", entry.name, f"{value:g}")
        return None


def keep(found: EntryOrDrop, filters: Sequence[ScoreFilter]) -> EntryOrDrop:
    """Replace an entry by the first reason against it, if there is one."""
    if isinstance(found, UnusableClip):
        return found
    return next((problem for rule in filters if (problem := rule.problem(found))), found)
