"""Every `m4v` command in README and guides is one that the command line reads; every Python block compiles."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

import pytest

from m4v.cli.main import VERBS, main
from m4v.cli.verb import Verb
from tests.architecture.source_tree import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md")))


def blocks(language: str) -> list[tuple[str, str]]:
    """Code blocks of a language with the name of their document."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(path.name, block) for path in DOCUMENTS for block in pattern.findall(path.read_text("utf-8"))]


COMMANDS = sorted({line for _, block in blocks("sh") for line in block.splitlines() if line.startswith("m4v ")})


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_reads_it(command: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words = shlex.split(command, comments=True)[1:]
    module = import_module(VERBS[words[0]][0])
    calls: list[object] = []

    def harmless(verb: Verb) -> Verb:
        if isinstance(verb, Mapping):
            return {name: harmless(inner) for name, inner in verb.items()}
        return replace(verb, run=calls.append)

    monkeypatch.setattr(module, "VERB", harmless(module.VERB))
    assert main(words) == 0, capsys.readouterr().err
    assert len(calls) == 1


@pytest.mark.parametrize(("document", "block"), blocks("python"))
def test_python_compiles(document: str, block: str) -> None:
    compile(block, document, "exec")
