"""Finding cuts: what is said where its library is missing."""

import contextlib
import sys
from pathlib import Path

import pytest

from m4v.core.errors import UserError
from m4v.data.preparation.config import CutConfig, PrepareConfig
from m4v.data.preparation.prepare import prepare
from m4v.data.preparation.shots import scan_video
from tests.data.preparation.footage import two_shots


@contextlib.contextmanager
def silent(_: str):
    yield lambda done, total: None


@pytest.mark.parametrize("module", ["scenedetect", "scenedetect.detectors"])
def test_without_pyscenedetect_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    path = two_shots(tmp_path / "in" / "a.mp4", 10, 10)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"PySceneDetect.*cannot be imported.*pip install 'm4v\[data\]'"):
        scan_video(path, CutConfig())
    with pytest.raises(UserError, match=r"m4v\[data\]"):
        prepare(path.parent, tmp_path / "out", PrepareConfig(), progress=silent)
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
