"""What a verb's module offers to `m4v.cli.main`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Action:
    """One thing the command line does.

    Attributes:
        arguments: Frozen dataclass of flags and positionals, torch-free; its docstring is the help text.
        run: Does it. Heavy rooms are imported inside, so that `--help` stays quick.
        parse: Reads the words after the verb, where a dataclass alone cannot (recipes with overrides).
    """

    arguments: type
    run: Callable[[Any], None]
    parse: Callable[[str, list[str]], Any] | None = None


Verb = Action | Mapping[str, "Verb"]
"""A verb is one action (`m4v generate`) or several by name (`m4v toybox render`, `m4v evaluate study build`)."""
