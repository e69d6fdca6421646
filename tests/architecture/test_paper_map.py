"""docs/paper_map.md points at files and names that exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.source_tree import PACKAGE, ROOT, syntax_of

PAPER_MAP = ROOT / "docs" / "paper_map.md"
# `flow/path.py::sample_path`, `flow/path.py`, or a folder such as `models/denoiser/recomposition/`, in backticks.
REFERENCE = re.compile(r"`(?P<path>[\w./-]+(?:\.py|/))(?:::(?P<symbol>[\w.]+))?`")


def references() -> list[tuple[str, str | None]]:
    """Collect (path, symbol) of every reference in a table row."""
    rows = [line for line in PAPER_MAP.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("|")]
    return [(match["path"], match["symbol"]) for row in rows for match in REFERENCE.finditer(row)]


def resolve_path(name: str) -> Path | None:
    """Find a reference's file, relative to the repository, to src, or to the package."""
    return next((base / name for base in (ROOT, PACKAGE.parent, PACKAGE) if (base / name).exists()), None)


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Map the names that a module or class body defines to their own bodies."""
    names: dict[str, list[ast.stmt]] = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[statement.name] = statement.body if isinstance(statement, ast.ClassDef) else []
        elif isinstance(statement, ast.Assign):
            names.update({target.id: [] for target in statement.targets if isinstance(target, ast.Name)})
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names[statement.target.id] = []
    return names


def defines(path: Path, symbol: str) -> bool:
    """Whether a file defines `name` or `Class.member`."""
    body = syntax_of(path).body
    for name in symbol.split("."):
        names = names_in(body)
        if name not in names:
            return False
        body = names[name]
    return True


def test_the_map_exists_and_is_not_empty() -> None:
    assert PAPER_MAP.is_file(), "docs/paper_map.md is missing"
    assert len(references()) >= 20


def test_every_reference_resolves() -> None:
    broken = []
    for name, symbol in references():
        path = resolve_path(name)
        if path is None or (symbol is not None and not (path.is_file() and defines(path, symbol))):
            broken.append(f"{name}::{symbol}" if symbol else name)
    assert broken == []


@pytest.mark.parametrize(
    ("symbol", "found"),
    [("write_video", True), ("TimedFrame", True), ("TimedFrame.seconds", True), ("VIDEO_SUFFIXES", True),
     ("absent", False), ("TimedFrame.absent", False), ("write_video.path", False)],
)  # fmt: skip
def test_symbols_are_really_looked_up(symbol: str, found: bool) -> None:
    assert defines(PACKAGE / "media" / "video.py", symbol) is found


def numbers_of(kind: str) -> set[int]:
    """Collect the numbers that follow a word in the first column: "Eqs. 8 to 10" gives 8, 9 and 10."""
    found: set[int] = set()
    for row in PAPER_MAP.read_text(encoding="utf-8").splitlines():
        first_column = row.lstrip("| ").split("|")[0]
        for match in re.finditer(rf"\b{kind}s?\.? (\d+(?:(?:, | and | to )\d+)*)", first_column):
            for part in re.split(r", | and ", match[1]):
                start, *end = map(int, part.split(" to "))
                found |= set(range(start, (end or [start])[0] + 1))
    return found


def test_equations_and_tables_are_all_there() -> None:
    assert numbers_of("Eq") == set(range(1, 11))
    assert numbers_of("Table") >= set(range(1, 6))
