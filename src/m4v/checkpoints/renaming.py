"""Tables between the tensor names of two code bases, checked to lose and merge nothing."""

import itertools
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from m4v.core.errors import UserError, shorten


@dataclass(frozen=True)
class Renaming:
    """A bijection between their names and ours.

    Raises:
        ValueError: if two of their names have the same name here.
    """

    theirs_to_ours: Mapping[str, str]

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.theirs_to_ours.values()).items() if count > 1]
        if twice:
            raise ValueError(f"several tensors would become {shorten(twice)}")

    @classmethod
    def from_templates(cls, pairs: Iterable[tuple[str, str]], **counts: int) -> "Renaming":
        """Expand pairs of name templates.

        Args:
            pairs: Their template and ours, such as `("transformer_blocks.{dual}.attn.to_q.weight",
                "transformer_blocks.{dual}.video.to_q.weight")`; fields of a pair are the same on both sides.
            counts: For every field, how many numbers from 0 it takes.

        Raises:
            ValueError: if two tensors get the same name, or the sides of a pair have other fields.
            KeyError: if a field has no count.
        """
        table: dict[str, str] = {}
        for theirs, ours in pairs:
            fields = _fields(theirs)
            if sorted(fields) != sorted(_fields(ours)):
                raise ValueError(f"{theirs} and {ours} differ in their numbers")
            for numbers in itertools.product(*(range(counts[field]) for field in fields)):
                values = dict(zip(fields, numbers, strict=True))
                name = theirs.format(**values)
                if name in table:
                    raise ValueError(f"{name} stands in the table twice")
                table[name] = ours.format(**values)
        return cls(table)

    @cached_property
    def ours_to_theirs(self) -> Mapping[str, str]:
        """The other direction."""
        return {ours: theirs for theirs, ours in self.theirs_to_ours.items()}

    def require_theirs(self, found: Iterable[str], where: str) -> None:
        """Check that exactly the tensors of the table are there, by their names.

        Raises:
            UserError: with the first ten missing and unknown names and how many there are.
        """
        _require(self.theirs_to_ours, found, where)

    def require_ours(self, found: Iterable[str], where: str) -> None:
        """Check that exactly the tensors of the table are there, by our names.

        Raises:
            UserError: with the first ten missing and unknown names and how many there are.
        """
        _require(self.ours_to_theirs, found, where)


def _fields(template: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]


def _require(needed: Mapping[str, str], found: Iterable[str], where: str) -> None:
    names = list(found)
    there = set(names)
    missing = [name for name in needed if name not in there]
    unknown = [name for name in names if name not in needed]
    parts = [
        f"{len(listed)} {what}: {shorten(listed)}"
        for what, listed in (("missing", missing), ("unknown", unknown))
        if listed
    ]
    if parts:
        raise UserError(
            f"{where} holds {len(names)} tensors, {len(needed)} are needed; {'; '.join(parts)}. Download the files "
            "again, or check that weights and configuration belong together."
        )
