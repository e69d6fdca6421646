"""The repository travels: no path of one machine, no stray character, no file too large to carry."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.source_tree import PACKAGE, ROOT

# Spelt with a class around one letter, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile(r"/wor[k]/|/far[m]/|/roo[t]/|/tm[p]/|/hom[e]/\w+/|[.]librar[y]/|[A-Z]:\\User[s]\\")
TEXT_SUFFIXES = {"", ".cff", ".csv", ".html", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
MAX_WEIGHTS = 40 * 2**20


def tracked_files() -> list[Path]:
    """List the files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in TEXT_SUFFIXES:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if MACHINE_PATHS.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_search_finds_what_it_should() -> None:
    assert MACHINE_PATHS.search("open('/" + "tmp/x')")
    assert MACHINE_PATHS.search("/" + "home/ada/m4v")
    assert not MACHINE_PATHS.search("src/m4v/core/files.py, ~/.cache, /dev/full")


def test_the_package_is_ascii() -> None:
    odd = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix == ".py" and path.is_relative_to(PACKAGE) and not path.read_bytes().isascii()
    ]
    assert odd == []


def test_bundled_weights_stay_small() -> None:
    weights = [path for path in tracked_files() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= MAX_WEIGHTS
