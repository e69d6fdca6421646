"""Counting what is not used: every reason with its number and up to three examples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from m4v.core.errors import UserError
from m4v.data.source import UnusableClip

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class DropReason:
    """How many clips were dropped for one reason, with a few of them named."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Give it as JSON types."""
        return {"reason": self.reason, "count": self.count, "examples": list(self.examples)}

    def __str__(self) -> str:
        return f"{self.count} x {self.reason}, for example {'; '.join(self.examples)}"


def count_drops(drops: Iterable[UnusableClip]) -> tuple[DropReason, ...]:
    """Group dropped clips by reason, most frequent first; equal counts stay in the order they appeared."""
    groups: dict[str, list[UnusableClip]] = {}
    for drop in drops:
        groups.setdefault(drop.reason, []).append(drop)
    reasons = [
        DropReason(reason, len(group), tuple(_example(drop) for drop in group[:_NUM_EXAMPLES]))
        for reason, group in groups.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.count))


def describe_drops(drops: Iterable[UnusableClip]) -> str:
    """Write one line per reason; empty if nothing was dropped."""
    return "\n".join(f"  {reason}" for reason in count_drops(drops))


def require_usable(num_usable: int, where: str, drops: Sequence[UnusableClip], remedy: str) -> None:
    """Refuse to go on with nothing.

    Raises:
        UserError: if `num_usable` is 0; the message counts the reasons and gives examples.
    """
    if num_usable:
        return
    if not drops:
        raise UserError(f"No usable clip in {where}: nothing was found there. {remedy}")
    raise UserError(f"No usable clip in {where}: {len(drops)} dropped.\n{describe_drops(drops)}\n{remedy}")


def _example(drop: UnusableClip) -> str:
    return f"{drop.source} ({drop.detail})" if drop.detail else drop.source
