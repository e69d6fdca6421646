"""`m4v convert pyramid-flow`: what it says, what it writes, exit code 2 for what cannot be used."""

import json

import pytest

from tests.checkpoints.pyramid_flow_files import file_contents, write_root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "root", variants=("768p", "image"))


def test_there_and_back(m4v, root, tmp_path):
    outcome = m4v("convert", "pyramid-flow", root, "ours", "--variant", "image")
    assert (outcome.code, outcome.out) == (0, "ours\n")
    assert "has no text_encoder, text_encoder_2, tokenizer, tokenizer_2" in outcome.err
    assert "transformer: 108 tensors" in outcome.err
    assert "96 renamed" in outcome.err
    outcome = m4v("convert", "pyramid-flow", "ours", "back", "--reverse")
    assert (outcome.code, outcome.out) == (0, "back\n")
    expected = {name: content for name, content in file_contents(root).items() if "768p" not in name}
    assert file_contents(tmp_path / "back") == expected


def test_json_tells_the_fate_of_every_tensor(m4v, root, tmp_path):
    report = json.loads(m4v("convert", "pyramid-flow", root, "ours", "--json").out)
    assert (report["path"], report["variant"]) == ("ours", "768p")
    assert "taking 768p" in report["notes"][0]
    assert report["networks"]["transformer"]["counts"] == {"copied": 12, "renamed": 96, "derived": 0, "new": 0}
    outcome = m4v("convert", "pyramid-flow", "ours", "back", "--reverse", "--json", "report.json")
    assert outcome.out == "back\n"
    assert json.loads((tmp_path / "report.json").read_text())["networks"]["causal_video_vae"] == {
        "tensors": 156,
        "same_files": True,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ROOT", "ours", "--dtype", "float16"], "bfloat16"),
        (["ROOT", "ours", "--variant", "384p"], "it has 768p, image"),
        (["ROOT", "ours", "--reverse", "--dtype", "float32"], "leave --dtype out"),
        (["ROOT", "ours", "--reverse"], "model_index.json"),
        (["none", "ours"], "There is no none"),
        (["ROOT", "ROOT"], "target"),
        (["ROOT"], "target"),
    ],
)
def test_input_that_cannot_be_used_is_code_2(m4v, root, tmp_path, words, message):
    outcome = m4v("convert", "pyramid-flow", *(str(root) if word == "ROOT" else word for word in words))
    assert outcome.code == 2
    assert message.lower() in (outcome.err + outcome.out).lower()
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "ours").exists()


def test_help_lists_the_three_conversions(m4v):
    outcome = m4v("convert", "--help")
    assert outcome.code == 0
    for name in ("pyramid-flow", "wan", "attention-to-mamba"):
        assert name in outcome.out
    assert "--reverse" in m4v("convert", "pyramid-flow", "--help").out
