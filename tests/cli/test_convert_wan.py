"""`m4v convert wan` and `m4v convert attention-to-mamba` from the command line."""

import json
import os

import pytest
from safetensors.torch import load_file

from tests.checkpoints.wan_files import ORIGINAL_CONFIG, WEIGHTS, save_original, save_pipeline


def test_both_ways_and_on_to_state_space(m4v, tmp_path):
    source = save_pipeline(tmp_path / "stock")
    made = m4v("convert", "wan", source, "ours")
    assert (made.code, made.out.strip()) == (0, "ours")
    assert "attention kept in every layer" in made.err
    assert "96 tensors: 96 copied." in made.err

    back = m4v("convert", "wan", "ours", "back", "--reverse", "--layout", "diffusers", "--json")
    assert back.code == 0
    assert json.loads(back.out)["counts"] == {"copied": 96, "renamed": 0, "derived": 0, "new": 0}
    weights = f"transformer/{WEIGHTS}"
    assert (tmp_path / "back" / weights).read_bytes() == (source / weights).read_bytes()

    mamba = m4v("convert", "attention-to-mamba", "ours", "mamba", "--plan", "interleaved", "--json", "report.json")
    assert mamba.code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["tensors"]) == set(load_file(tmp_path / "mamba" / weights))
    assert "not been trained since" in mamba.err


def test_original_checkpoints_say_what_is_still_needed(m4v, tmp_path):
    source = save_original(tmp_path / "original")
    made = m4v("convert", "wan", source, "mamba", "--to-mamba", "--dtype", "bfloat16", "--max-shard-size", "20KB")
    assert made.code == 0
    assert "needs the folders vae, text_encoder, tokenizer" in made.err
    assert len(list((tmp_path / "mamba/transformer").glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "mamba/transformer/config.json").read_text())
    assert (config["_class_name"], config["mixer_plan"]) == ("WanM4VTransformer3DModel", "full")
    index = json.loads((tmp_path / "mamba/model_index.json").read_text())
    assert (index["defaults"]["first_guidance"], index["defaults"]["num_frames"]) == (6.0, 81)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "ours"), "There is no nowhere"),
        (("original", "original/ours"), "overlaps the source"),
        (("original", "ours", "--max-shard-size", "big"), "'big' cannot be read"),
        (("original", "ours", "--reverse", "--to-mamba"), "leave --to-mamba out"),
        (("original", "ours", "--reverse"), "original is not a model folder: it has no model_index.json"),
        (("i2v", "ours"), "image-to-video"),
    ],
)
def test_bad_input_is_said_in_a_line_and_leaves_nothing(m4v, tmp_path, words, message):
    save_original(tmp_path / "original")
    save_original(tmp_path / "i2v", config=ORIGINAL_CONFIG | {"model_type": "i2v"})
    outcome = m4v("convert", "wan", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["i2v", "original"]
    assert {entry.name for entry in (tmp_path / "original").iterdir()} == {WEIGHTS, "config.json"}


def test_a_target_with_other_files_is_left_alone(m4v, tmp_path):
    save_original(tmp_path / "original")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    assert m4v("convert", "wan", "original", "photos").code == 2
    assert (tmp_path / "photos/cat.jpg").is_file()


@pytest.mark.parametrize("action", ["wan", "attention-to-mamba"])
def test_help_lists_the_options(m4v, action):
    outcome = m4v("convert", action, "--help")
    assert outcome.code == 0
    assert "--plan" in outcome.out
    assert "--map" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--plan", "full"), "add that, or leave --plan out"),
        (("--seed", "0"), "add that, or leave --seed out"),
        (("--conv-activation", "none"), "add that, or leave --conv-activation out"),
        (("--layout", "diffusers"), "belongs to --reverse"),
        (("--reverse", "--dtype", "bfloat16"), "leave --dtype out"),
        (("--reverse", "--parts", "original"), "leave --parts out"),
        (("--json", "original"), "it is a folder"),
        (("--json", "pipe"), "neither a file nor a folder"),
        (("--json", "original/config.json/report.json"), "another place with --json"),
        (("--json", ""), "--json is empty"),
    ],
)
def test_flags_that_would_do_nothing_are_refused_before_the_work(m4v, tmp_path, words, message):
    save_original(tmp_path / "original")
    os.mkfifo(tmp_path / "pipe")
    outcome = m4v("convert", "wan", "original", "ours", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "ours").exists()
