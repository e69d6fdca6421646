"""Bundled models are found beside the code, by name."""

import pytest

from m4v.checkpoints import bundled
from m4v.core.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundled_root", lambda: tmp_path)
    return tmp_path


def add(root, name):
    (root / name).mkdir()
    (root / name / "model_index.json").write_text("{}")


def test_models_are_folders_with_an_index(root):
    add(root, "zebra")
    add(root, "ant")
    (root / "not-a-model").mkdir()
    assert list(bundled.bundled_models()) == ["ant", "zebra"]
    assert bundled.describe_bundled() == "ant, zebra"


def test_the_default_is_the_preferred_one_or_any_or_none(root):
    with pytest.raises(UserError, match="no bundled model"):
        bundled.default_bundled_model()
    add(root, "ant")
    assert bundled.default_bundled_model() == "ant"
    add(root, bundled.PREFERRED[0])
    assert bundled.default_bundled_model() == bundled.PREFERRED[0]


def test_the_real_root_lies_inside_the_package():
    assert bundled.bundled_root().name == "bundled"
    assert bundled.bundled_root().parent.name == "m4v"
