"""Names of models: folder, bundled, hub - in this order, and only the hub uses the network."""

import logging

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from m4v.checkpoints import bundled
from m4v.checkpoints.resolve import resolve_model
from m4v.core.errors import UserError


@pytest.fixture
def no_network(monkeypatch):
    calls = []

    def refuse(hub_id, **options):
        calls.append((hub_id, options))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return calls


@pytest.fixture
def one_bundled(tmp_path, monkeypatch):
    folder = tmp_path / "bundled" / "toy"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(bundled, "bundled_root", lambda: folder.parent)
    return folder


def test_a_folder_wins_over_a_bundled_name(one_bundled, tmp_path, monkeypatch, no_network):
    assert resolve_model("toy") == one_bundled
    (tmp_path / "toy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(resolve_model("toy")) == "toy"
    assert no_network == []


@pytest.mark.parametrize("name", ["tot", "./toy", "/nowhere/at/all", "a/b/c", "../toy", ""])
def test_what_cannot_be_a_hub_model_lists_the_bundled_ones(one_bundled, no_network, name):
    if not name:
        return
    with pytest.raises(UserError, match="bundled: toy"):
        resolve_model(name)
    assert no_network == []


def test_a_hub_name_is_said_aloud_and_its_failure_explained(one_bundled, no_network, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="no connection"):
        resolve_model("someone/some-model", revision="main")
    assert "Hugging Face hub" in caplog.text
    assert no_network[0][0] == "someone/some-model"
    assert no_network[0][1]["revision"] == "main"


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError, match="is a file"):
        resolve_model(tmp_path / "weights.safetensors")
