"""Errors that are the user's to mend: the command line prints them without a traceback and exits with code 2."""

from collections.abc import Sequence

_SHOWN_NAMES = 10


class UserError(ValueError):
    """Input the program cannot use; the message names the value received, what was expected and the remedy."""


def shorten(names: Sequence[str]) -> str:
    """Join the first ten names for a message, and tell how many more there are."""
    shown = ", ".join(names[:_SHOWN_NAMES]) or "none"
    return f"{shown}, and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown
