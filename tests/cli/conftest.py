"""A debug model bundled under a name, and a way to run the command line in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from m4v.checkpoints import bundled
from m4v.cli.main import main
from tests.pipelines.debug_parts import debug_pipeline


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like `m4v/bundled` with one debug-size model."""
    root = tmp_path_factory.mktemp("bundled")
    debug_pipeline().save_pretrained(root / "tiny")
    return root


@pytest.fixture
def m4v(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., Outcome]:
    """Run `m4v WORDS` in an empty working folder with the debug model as the only bundled one."""
    monkeypatch.setattr(bundled, "bundled_root", lambda: bundle)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
