"""Damaged, lying and half-downloaded checkpoints are named in a sentence, and nothing is left of the attempt."""

import json
import logging
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from m4v.checkpoints.pyramid_flow import PyramidFlowConversion
from m4v.checkpoints.pyramid_flow_restore import PyramidFlowRestoration
from m4v.checkpoints.pyramid_flow_root import find_checkpoint
from m4v.checkpoints.tensor_files import open_tensors
from m4v.checkpoints.wan_conversion import convert_wan
from m4v.checkpoints.wan_reversal import reverse_wan
from m4v.checkpoints.wan_source import open_wan
from m4v.core.errors import UserError
from tests.checkpoints.pyramid_flow_files import file_contents, write_root
from tests.checkpoints.wan_files import ORIGINAL_CONFIG, WEIGHTS, original_tensors, save_original, save_pipeline
from tests.checkpoints.wan_files import stock_network as network


def convert(source, target, **options):
    return convert_wan(open_wan(source), target, defaults={}, flow_shift=3.0, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "0 heads"),
        ({"num_heads": "2"}, "'2' heads"),
        ({"num_heads": 5}, "divides the width 24"),
        ({"dim": 99}, "dim = 99; expected 24"),
        ({"text_len": 128}, "text_len = 128; expected 512"),
        ({"qk_norm": False}, "qk_norm = False; expected True"),
        ({"window_size": [5, 5]}, "window_size"),
        ({"model_type": ["t2v"]}, "of the type"),
        ({"_class_name": ["WanModel"]}, "WanModel"),
        ({"num_layers": 10**6}, "missing"),
    ],
)
def test_configurations_that_lie_are_refused(tmp_path, changes, message):
    source = save_original(tmp_path / "source", config=ORIGINAL_CONFIG | changes)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        open_wan(source)


def test_fields_that_say_what_is_fixed_change_nothing(tmp_path):
    said = {"qk_norm": True, "cross_attn_norm": True, "window_size": [-1, -1], "text_len": 512}
    plain = open_wan(save_original(tmp_path / "plain")).arguments
    assert open_wan(save_original(tmp_path / "said", config=ORIGINAL_CONFIG | said)).arguments == plain


@pytest.mark.parametrize("text", ["[" * 100_000, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_texts_that_are_no_json_are_named(tmp_path, text):
    source = save_original(tmp_path / "source")
    (source / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        open_wan(source)


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [1], {"a": 3}, {"a": 3, "b": "x.safetensors"}, {"a": "../x.safetensors"}, {"a": "/x.safetensors"}],
)
def test_an_index_names_files_beside_it(tmp_path, weight_map):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match="not an index of shards"):
        open_tensors(path)


def test_torch_files_are_told_from_pages_and_pointers(tmp_path):
    path = tmp_path / "model.bin"
    for content in (b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"not a torch file \({len(content)} bytes\)"):
            open_tensors(path)
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(10, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.bin"):
            open_tensors(path)
    for content in ({0: torch.zeros(1)}, {"a": torch.zeros(1), 3: torch.zeros(1)}):
        torch.save(content, path)
        with pytest.raises(UserError, match="no named tensors"):
            open_tensors(path)
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match="can run code"):
        open_tensors(path)


def test_the_folder_of_a_download_cache_is_told_apart(tmp_path):
    (tmp_path / "models--wan" / "snapshots" / "0fad780").mkdir(parents=True)
    with pytest.raises(UserError, match="snapshots/: 0fad780"):
        open_wan(tmp_path / "models--wan")


def test_links_that_lead_nowhere_are_named(tmp_path):
    source = save_pipeline(tmp_path / "source")
    (source / "vae" / WEIGHTS).unlink()
    (source / "vae" / WEIGHTS).symlink_to("gone")
    with pytest.raises(UserError, match=rf"vae/{WEIGHTS} cannot be read"):
        convert(source, tmp_path / "ours")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_values_beyond_a_precision_are_refused_and_damaged_ones_said(tmp_path, caplog):
    tensors = original_tensors(network())
    name = "blocks.0.self_attn.q.weight"
    source = save_original(tmp_path / "large", tensors | {name: tensors[name] * 1e9})
    with pytest.raises(UserError, match=r"values up to .*float16 cannot hold"):
        convert(source, tmp_path / "ours", dtype=torch.float16)
    assert not (tmp_path / "ours").exists()
    source = save_original(tmp_path / "broken", tensors | {name: tensors[name] * float("nan")})
    with caplog.at_level(logging.WARNING):
        convert(source, tmp_path / "ours")
    assert "1 tensors hold values that are infinite or no numbers" in caplog.text
    assert load_file(tmp_path / "ours" / "transformer" / WEIGHTS)["blocks.0.attn1.to_q.weight"].isnan().all()


def test_parts_of_other_models_are_refused(tmp_path):
    source = save_original(tmp_path / "source")
    (tmp_path / "parts" / "text_encoder").mkdir(parents=True)
    (tmp_path / "parts" / "text_encoder" / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(UserError, match="expected 'umt5'"):
        convert(source, tmp_path / "ours", parts=tmp_path / "parts")


def test_line_endings_of_texts_come_back_as_they_were(tmp_path):
    source = save_original(tmp_path / "wan")
    (source / "config.json").write_bytes((source / "config.json").read_bytes().replace(b"\n", b"\r\n"))
    convert(source, tmp_path / "ours")
    reverse_wan(tmp_path / "ours", tmp_path / "back", "original")
    assert file_contents(tmp_path / "back") == file_contents(source)

    root = write_root(tmp_path / "root")
    path = root / "diffusion_transformer_768p" / "config.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    PyramidFlowConversion.open(find_checkpoint(root)).write(tmp_path / "pyramid")
    PyramidFlowRestoration.open(tmp_path / "pyramid").write(tmp_path / "restored")
    assert file_contents(tmp_path / "restored") == file_contents(root)


def test_what_was_added_to_a_converted_folder_is_not_deleted(tmp_path):
    source = save_original(tmp_path / "source")
    convert(source, tmp_path / "ours")
    convert(source, tmp_path / "ours")
    (tmp_path / "ours" / "vae").mkdir()
    (tmp_path / "ours" / "vae" / WEIGHTS).write_text("copied by hand")
    with pytest.raises(UserError, match="would be lost: vae"):
        convert(source, tmp_path / "ours")
    assert (tmp_path / "ours" / "vae" / WEIGHTS).is_file()


def test_a_checkpoint_root_gets_no_folders_in_it(tmp_path):
    root = write_root(tmp_path / "root")
    with pytest.raises(UserError, match="overlaps the source"):
        PyramidFlowConversion.open(find_checkpoint(root)).write(root / "ours")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_block_out_channels", 8),
        ("decoder_spatial_up_sample", []),
        ("encoder_layers_per_block", [1, 1, 1, "1"]),
        ("encoder_temporal_down_sample", "abcd"),
    ],
)
def test_autoencoder_settings_of_the_wrong_kind_are_named(tmp_path, name, value):
    root = write_root(tmp_path / "root")
    path = root / "causal_video_vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError, match=name):
        PyramidFlowConversion.open(find_checkpoint(root))


def test_a_tensor_without_axes_is_named(tmp_path):
    root = write_root(tmp_path / "root")
    path = root / "diffusion_transformer_768p" / WEIGHTS
    save_file(load_file(path) | {"transformer_blocks.0.ff.net.0.proj.weight": torch.tensor(1.0)}, path)
    with pytest.raises(UserError, match=r"ff\.net\.0\.proj\.weight"):
        PyramidFlowConversion.open(find_checkpoint(root))


def test_folders_of_another_layout_are_told_apart(tmp_path):
    save_pipeline(tmp_path / "wan")
    with pytest.raises(UserError, match="m4v convert wan"):
        find_checkpoint(tmp_path / "wan")
