"""What a data source is: numbered clips, each a pure function of its number."""

from typing import Protocol

from m4v.core.errors import UserError
from m4v.data.clip import Clip


class UnusableClip(UserError):
    """A clip that cannot be trained on; callers count it by reason and go on, never in silence.

    Attributes:
        reason: The kind of problem in a few words, such as "unreadable file"; drops are counted by it.
        source: Which file or row.
        detail: What exactly is wrong with this one.
    """

    def __init__(self, reason: str, source: str, detail: str = "") -> None:
        super().__init__(f"{source}: {reason}{': ' if detail else ''}{detail}")
        self.reason = reason
        self.source = source
        self.detail = detail


class ClipSource(Protocol):
    """Clips numbered from 0. The same number always gives the same clip, from any thread."""

    def __len__(self) -> int:
        """Count the clips, usable or not."""
        ...

    def clip(self, index: int) -> Clip:
        """Make clip `index`.

        Raises:
            UnusableClip: if this clip cannot be used.
        """
        ...
