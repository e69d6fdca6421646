"""Streaming weights: the same bytes as the safetensors library, bounded memory, and clear words on broken files."""

import json
import pickle

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from m4v.checkpoints.safetensors_header import DTYPES, TensorSpec
from m4v.checkpoints.tensor_files import open_tensors, write_shards
from m4v.core.errors import UserError


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(5, 3, generator=generator),
        "a.weight": torch.randn(2, 3, 4, generator=generator).bfloat16(),
        "a.bias": torch.tensor(1.5),
        "é.count": torch.arange(3),
        "empty": torch.zeros(0, 2),
        "flag": torch.tensor([True, False, True]),
    }


def specs_of(state):
    return {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in state.items()}


def assert_same(source, state):
    assert set(source.specs) == set(state)
    for name, tensor in state.items():
        assert source.specs[name] == TensorSpec(tensor.dtype, tuple(tensor.shape))
        assert torch.equal(source.read(name), tensor)


def test_written_bytes_are_those_of_the_library(tmp_path):
    state = tensors() | {
        f"dtype {code}": torch.arange(3).to(dtype if dtype != torch.bool else torch.uint8).to(dtype)
        for code, dtype in DTYPES.items()
    }
    save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert [path.name for path in write_shards(tmp_path, specs_of(state), state.__getitem__, stem="ours")] == [
        "ours.safetensors"
    ]
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_shards_and_index_are_those_of_the_hub_library(tmp_path):
    state = {f"layer.{i}": torch.full((100 + i,), float(i)) for i in range(9)}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    save_torch_state_dict(state, tmp_path / "theirs", filename_pattern="model{suffix}.safetensors", max_shard_size=1000)
    write_shards(tmp_path / "ours", specs_of(state), state.__getitem__, stem="model", max_shard_bytes=1000)
    theirs = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    ours = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    name = "model.safetensors.index.json"
    assert json.loads(ours.pop(name))["weight_map"] == json.loads(theirs.pop(name))["weight_map"]
    assert ours == theirs
    assert len(ours) > 2


def test_a_given_layout_is_kept_and_a_tensor_above_the_limit_has_its_own_file(tmp_path):
    state = tensors()
    layout = {name: f"part-{len(name) % 2}.safetensors" for name in state}
    files = write_shards(tmp_path, specs_of(state), state.__getitem__, stem="part", layout=layout)
    assert [path.name for path in files] == ["part-0.safetensors", "part-1.safetensors"]
    assert open_tensors(tmp_path).layout == {name: layout[name] for name in open_tensors(tmp_path).specs}
    assert_same(open_tensors(tmp_path), state)
    (tmp_path / "tiny").mkdir()
    assert len(write_shards(tmp_path / "tiny", specs_of(state), state.__getitem__, max_shard_bytes=1)) == 6
    assert_same(open_tensors(tmp_path / "tiny"), state)


@pytest.mark.parametrize("name", ["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "w.pth", "w.pt"])
def test_single_files_open_by_themselves_and_by_their_folder(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(tensors(), path, metadata={"format": "pt", "note": "kept"})
        assert open_tensors(path).metadata == {path: {"format": "pt", "note": "kept"}}
    else:
        torch.save(tensors(), path)
    (tmp_path / "config.json").write_text("{}")
    for source in (open_tensors(path), open_tensors(tmp_path)):
        assert source.files == (path,)
        assert_same(source, tensors())


def test_old_torch_files_and_nested_state_dicts_open(tmp_path):
    torch.save(tensors(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(open_tensors(tmp_path / "old.pt"), tensors())
    torch.save({"state_dict": tensors(), "step": 3}, tmp_path / "nested.pt")
    assert_same(open_tensors(tmp_path / "nested.pt"), tensors())


def test_torch_shards_with_an_index_open(tmp_path):
    state = tensors()
    names = list(state)
    torch.save({name: state[name] for name in names[:3]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({name: state[name] for name in names[3:]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {name: f"pytorch_model-0000{1 + (i >= 3)}-of-00002.bin" for i, name in enumerate(names)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(open_tensors(tmp_path), state)


def test_safetensors_win_over_torch_and_plain_names_over_variants(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.bin")
    save_file({"x": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert open_tensors(tmp_path).read("x") == 1
    save_file({"x": torch.full((1,), 2.0)}, tmp_path / "diffusion_pytorch_model.safetensors")
    assert open_tensors(tmp_path).read("x") == 2


def test_read_tensors_are_independent_of_the_file(tmp_path):
    torch.save(tensors(), tmp_path / "w.pt")
    source = open_tensors(tmp_path / "w.pt")
    source.read("z.weight").zero_()
    assert torch.equal(source.read("z.weight"), tensors()["z.weight"])


class Stranger:
    """What a training script may leave in its checkpoint."""


def test_files_that_need_unpickling_are_refused_with_the_way_to_convert(tmp_path):
    torch.save({"model": tensors(), "arguments": Stranger()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="can run code") as caught:
        open_tensors(tmp_path / "w.pt")
    assert "save_file" in str(caught.value)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Stranger(), protocol=2))
    with pytest.raises(UserError, match=r"w\.pt"):
        open_tensors(tmp_path / "w.pt")


def test_broken_torch_files_are_named(tmp_path):
    torch.save(tensors(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "w.pt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w\.pt"):
            open_tensors(tmp_path / "w.pt")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(UserError, match="no state dict"):
        open_tensors(tmp_path / "w.pt")
    torch.save({"a": torch.zeros(1), "step": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="step"):
        open_tensors(tmp_path / "w.pt")


def test_broken_safetensors_and_shards_are_named(tmp_path):
    state = {f"layer.{i}": torch.full((100,), float(i)) for i in range(9)}
    files = write_shards(tmp_path, specs_of(state), state.__getitem__, max_shard_bytes=900)
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1])
    with pytest.raises(UserError, match=files[1].name):
        open_tensors(tmp_path)
    files[1].unlink()
    with pytest.raises(UserError, match=files[1].name):
        open_tensors(tmp_path)
    save_file({"layer.2": state["layer.2"]}, files[1])
    with pytest.raises(UserError, match=r"layer\.3"):
        open_tensors(tmp_path)
    save_file({name: state[name] for name in ("layer.2", "layer.3", "layer.0")}, files[1])
    with pytest.raises(UserError, match="disagree"):
        open_tensors(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="index"):
        open_tensors(tmp_path)


def test_places_without_one_set_of_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        open_tensors(tmp_path)
    with pytest.raises(UserError, match="There is no"):
        open_tensors(tmp_path / "none")
    (tmp_path / "w.gguf").touch()
    with pytest.raises(UserError, match="not a weights file"):
        open_tensors(tmp_path / "w.gguf")
    save_file({"x": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="several"):
        open_tensors(tmp_path)


def test_what_is_written_must_fit_the_header(tmp_path):
    with pytest.raises(ValueError, match="header says"):
        write_shards(tmp_path, {"x": TensorSpec(torch.float32, (2,))}, lambda name: torch.zeros(3))
    with pytest.raises(UserError, match="cannot hold"):
        write_shards(tmp_path, {"x": TensorSpec(torch.complex128, (2,))}, lambda name: torch.zeros(3))


def test_files_of_this_module_open_with_the_library(tmp_path):
    state = tensors()
    write_shards(tmp_path, specs_of(state), state.__getitem__)
    loaded = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
