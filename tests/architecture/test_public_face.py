"""`import m4v` is light, and what it offers is there."""

import subprocess
import sys
import tomllib

import pytest

import m4v
from tests.architecture.source_tree import PACKAGE, ROOT


@pytest.mark.parametrize("name", [name for name in m4v.__all__ if name != "__version__"])
def test_public_classes_are_found_at_first_use(name: str) -> None:
    assert getattr(m4v, name).__name__ == name
    assert name in dir(m4v)


def test_unknown_names_are_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'M5VPipeline'"):
        m4v.M5VPipeline  # noqa: B018


def test_importing_the_package_is_quick() -> None:
    code = "import sys, m4v; print(sorted({'torch', 'numpy', 'numba', 'av', 'rich', 'tyro'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_is_typed_and_licensed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_versions_agree() -> None:
    assert f"version: {m4v.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {m4v.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_direct_requirement_portably() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not [version for version in pins.values() if "+" in version], "local versions exist on one machine only"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {item.split(">")[0].split("[")[0].split(";")[0].strip() for item in wanted} - {"m4v"}
    names.remove("trackio")  # asks for a pillow older than the one pinned, and is in no group that tests install
    pinned = {name.lower().replace("_", "-") for name in pins}
    assert names - pinned == set()
