"""`m4v data synth` with a stock Wan pipeline of diffusers, with a bundled model, and with nothing that exists."""

import json

from tests.pipelines.wan_parts import stock_pipeline


def test_any_diffusers_pipeline_makes_a_data_set_that_training_reads(m4v, tmp_path):
    stock_pipeline().save_pretrained(tmp_path / "wan")
    (tmp_path / "p.txt").write_text("a red ball rolls\n# no prompt\na blue cube\n")
    words = ["data", "synth", "--prompts", "p.txt", "--pipeline", "wan", "--out", "syn", "--num", 2, "--frames", 5]
    words += ["--height", 32, "--width", 48, "--steps", 2, "--device", "cpu"]
    outcome = m4v(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "syn\n"
    rows = [json.loads(line) for line in (tmp_path / "syn/metadata.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == ["a red ball rolls", "a blue cube"] * 2
    assert {(row["model_class"], row["frames"], row["steps"]) for row in rows} == {("WanPipeline", 5, 2)}
    assert len({row["seed"] for row in rows}) == 4
    assert "Made 0 videos" in m4v(*words).err
    check = m4v("data", "check", "syn", "--frames", 5, "--height", 32, "--width", 32, "--fps", 16)
    assert "kept 4" in check.out


def test_bundled_models_and_what_does_not_exist(m4v, tmp_path):
    (tmp_path / "p.txt").write_text("a red ball rolls\n")
    words = ["data", "synth", "--prompts", "p.txt", "--out", "syn", "--steps", 1, "--device", "cpu", "--pipeline"]
    assert m4v(*words, "tiny").code == 0
    assert m4v(*words, "owner/none").code == 2
    assert "--hub" in m4v(*words, "owner/none").err
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in m4v(*words, "empty").err
