"""The rooms and their layers, as written in pyproject.toml, hold."""

import subprocess
import sys
import tomllib

from tests.architecture.source_tree import PACKAGE, ROOT, dotted_name, package_modules, syntax_of

LAYERS = [
    {"cli"},
    {"studies"},
    {"recipes"},
    {"training", "evaluation", "analysis"},
    {"pipelines"},
    {"checkpoints", "rewards", "data"},
    {"models", "flow"},
    {"ops", "media", "toybox"},
    {"core"},
]


def contracts() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_import_contracts_hold() -> None:
    # In a process of its own: the checker changes the working directory, the path and the logging of its host.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_states_the_layers_of_the_design() -> None:
    (contract,) = [contract for contract in contracts() if contract["type"] == "layers"]
    assert [{room.strip() for room in layer.split("|")} for layer in contract["layers"]] == LAYERS
    assert contract["exhaustive"] is True


def test_every_room_has_a_place() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set().union(*LAYERS)


def test_library_contracts_cover_every_room_below_the_command_line() -> None:
    rooms = {f"m4v.{room}" for room in set().union(*LAYERS) - {"cli"}}
    owners = {"tyro": set(), "av": {"m4v.media"}, "numba": {"m4v.toybox"}}
    for library, owner in owners.items():
        (contract,) = [contract for contract in contracts() if library in contract.get("forbidden_modules", [])]
        assert set(contract["source_modules"]) == rooms - owner, library


def test_package_faces_are_empty() -> None:
    for path in package_modules():
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert len(syntax_of(path).body) == 1, f"{dotted_name(path)} holds more than a docstring"


def test_no_module_is_called_utils() -> None:
    names = {path.stem for path in package_modules()}
    assert not names & {"utils", "util", "helpers", "misc", "common"}
