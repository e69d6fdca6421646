"""Safetensors files: whole, strict, and clear about what is wrong."""

import stat

import pytest
import torch
from safetensors.torch import load_file

from m4v.checkpoints.weights import compare_shapes, file_sha256, load_tensors, read_shapes, save_tensors
from m4v.core.errors import UserError


def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def test_round_trip_also_for_views_and_shared_memory(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    states = {"base": base, "same": base, "view": base.T, "part": base[1:]}
    save_tensors(tmp_path / "w.safetensors", states)
    loaded = load_tensors(tmp_path / "w.safetensors")
    assert set(loaded) == set(states)
    for name, tensor in states.items():
        assert torch.equal(loaded[name], tensor)
    assert set(load_file(tmp_path / "w.safetensors")) == set(states)
    assert read_shapes(tmp_path / "w.safetensors")["view"] == (4, 3)


def test_the_file_is_as_readable_as_its_neighbours_and_nothing_else_is_left(tmp_path):
    (tmp_path / "neighbour").touch()
    save_tensors(tmp_path / "w.safetensors", tensors())
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "neighbour").stat().st_mode
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["neighbour", "w.safetensors"]


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, tensors())
    whole = path.read_bytes()
    for length in (0, 4, 8, 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w\.safetensors") as caught:
            load_tensors(path)
        assert "again" in str(caught.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="promises"):
        read_shapes(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x04pickle of something", b"\x05\0\0\0\0\0\0\0[1,2]", b"\x02\0\0\0\0\0\0\0{]"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors")


def test_long_differences_are_shortened():
    difference = compare_shapes({f"layer{number}": (1,) for number in range(12)}, {})
    assert (
        str(difference)
        == "12 missing (layer0, layer1, layer2, layer3, layer4, layer5, layer6, layer7, layer8, layer9, and 2 more)"
    )
    assert not compare_shapes({"a": (1,), "tied": (2,)}, {"a": (1,)}, optional=frozenset({"tied"}))


def test_hash(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
