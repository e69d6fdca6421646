"""Functions and commands of the user's own that score and caption clips."""

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m4v.core.errors import UserError

ScoreHook = Callable[[UInt8[np.ndarray, "t h w 3"]], float]
"""Takes up to eight frames of a clip, evenly spaced, and gives a number."""

CaptionHook = Callable[[Path, Mapping[str, Any]], str | None]
"""Takes the clip's file and its row of metadata, and gives a caption, or None."""

_FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_COMMAND_SECONDS = 600


def load_function(name: str, flag: str) -> Callable[..., Any]:
    """Import a function by `module:function`; modules in the working folder are found, too.

    Raises:
        UserError: if it is written otherwise, cannot be imported, or is not callable.
    """
    if not _FUNCTION.match(name):
        raise UserError(f"{flag} is {name!r}; expected module:function, such as my_scores:text_share.")
    module_name, function_name = name.split(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"{flag} {name} cannot be imported: {error}. Put {module_name.split('.')[0]}.py into this folder."
        ) from error
    if not callable(function):
        raise UserError(f"{flag} {name} is a {type(function).__name__}; expected a function.")
    result: Callable[..., Any] = function
    return result


def load_score(name: str, flag: str) -> ScoreHook:
    """Import a score; what it raises or gives wrongly stops the run with its name.

    Raises:
        UserError: as `load_function`; the score itself raises it for an error inside or a result that is no number.
    """
    function = load_function(name, flag)

    def score(frames: np.ndarray) -> float:
        try:
            value = float(function(frames))
        except Exception as error:
            raise UserError(f"{flag} {name} failed: {type(error).__name__}: {error}.") from error
        if not np.isfinite(value):
            raise UserError(f"{flag} {name} gave {value}; expected a number.")
        return value

    return score


def load_caption(name: str) -> CaptionHook:
    """Make a caption hook of `module:function`, or of a command with `{path}` in it whose output is the caption.

    A command runs without a shell, once per clip; `{source}`, `{start}` and `{end}` are filled in as well.

    Raises:
        UserError: if it is neither, or its function cannot be imported.
    """
    if _FUNCTION.match(name):
        function = load_function(name, "--caption")

        def call(path: Path, row: Mapping[str, Any]) -> str | None:
            try:
                text = function(path, dict(row))
            except Exception as error:
                raise UserError(f"--caption {name} failed on {path}: {type(error).__name__}: {error}.") from error
            if text is not None and not isinstance(text, str):
                raise UserError(f"--caption {name} gave {type(text).__name__} for {path}; expected a text or None.")
            return text

        return call
    if "{path}" not in name:
        raise UserError(
            f"--caption is {name!r}; expected module:function, or a command with {{path}} where the clip's path goes."
        )

    def run(path: Path, row: Mapping[str, Any]) -> str | None:
        values = {
            "{path}": str(path),
            "{source}": str(row["source"]),
            "{start}": f"{row['source_start']:.3f}",
            "{end}": f"{row['source_end']:.3f}",
        }
        words = []
        for word in shlex.split(name):
            for key, value in values.items():
                word = word.replace(key, value)
            words.append(word)
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"The caption command {words[0]!r} did not run: {error}.") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"The caption command failed on {path} with code {done.returncode}: {last}")
        return done.stdout

    return run
