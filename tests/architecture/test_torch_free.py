"""What must answer at once never imports torch."""

import subprocess
import sys

from tests.architecture.source_tree import PACKAGE, dotted_name, package_modules

TORCH_FREE_CORE = ("errors", "shapes", "sequence_layout", "seeds", "config_io", "files")

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers"}:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
"""


def run_without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process where importing torch fails."""
    command = [sys.executable, "-c", BLOCKED + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_guard_itself_works() -> None:
    done = run_without_torch("import torch")
    assert done.returncode != 0
    assert "torch was imported" in done.stderr


def test_torch_free_modules() -> None:
    modules = [
        dotted_name(path)
        for path in package_modules()
        if path.stem == "config"
        or path.stem.endswith("_config")
        or path.is_relative_to(PACKAGE / "toybox")
        or (path.parent == PACKAGE / "core" and path.stem in TORCH_FREE_CORE)
    ]
    assert {f"m4v.core.{name}" for name in TORCH_FREE_CORE} <= set(modules)
    done = run_without_torch("\n".join(f"import {module}" for module in ["m4v", *modules]))
    assert done.returncode == 0, done.stderr


VERBS = (
    "generate",
    "train",
    "data",
    "toybox",
    "convert",
    "describe",
    "bench",
    "evaluate",
    "ablate",
    "report",
    "doctor",
)
HELP = "import sys\nfrom m4v.cli.main import main\nsys.argv[0] = 'm4v'\nsys.exit(main(sys.argv[1:]))"


def test_help_of_every_verb_without_torch() -> None:
    overview = run_without_torch(HELP, "--help")
    assert overview.returncode == 0, overview.stderr
    verbs = [verb for verb in VERBS if verb in overview.stdout.split()]
    assert {"generate", "train", "data", "toybox"} <= set(verbs)
    for verb in verbs:
        done = run_without_torch(HELP, verb, "--help")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > len(verb), verb
