"""Every module says what it is for, and every public name what it does."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source_tree import dotted_name, package_modules, syntax_of

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Give the public functions, classes and methods below a node, with their names."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


def explains_itself(path: Path, definition: Definition) -> bool:
    """Whether a definition has a docstring, or is one of the few that inherit it."""
    if ast.get_docstring(definition):
        return True
    decorators = {ast.unparse(decorator) for decorator in getattr(definition, "decorator_list", [])}
    if decorators & {"overload", "typing.overload", "override"}:
        return True
    # torch names these; what they do stands in the docstring of the class.
    return definition.name in {"forward", "backward", "setup_context"} and "torch" in path.read_text()


def test_modules_have_docstrings() -> None:
    missing = [dotted_name(path) for path in package_modules() if not ast.get_docstring(syntax_of(path))]
    assert missing == []


def test_public_names_have_docstrings() -> None:
    missing = [
        name
        for path in package_modules()
        for name, definition in public_definitions(syntax_of(path), f"{dotted_name(path)}.")
        if not explains_itself(path, definition)
    ]
    assert missing == []
