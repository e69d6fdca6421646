"""`m4v generate` end to end with a debug-size model, and every kind of bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from m4v.cli import generate
from m4v.flow.guidance import LinearDecay
from m4v.media.video import probe, read_video
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, debug_pipeline
from tests.pipelines.wan_parts import wan_pipeline

PROMPT = "a red ball rolls to the right"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_sentence_becomes_a_file_and_its_path_the_last_line(m4v, tmp_path):
    outcome = m4v("generate", PROMPT)
    assert outcome.code == 0
    path = "outputs/a-red-ball-rolls-to-the-right-seed0.mp4"
    assert outcome.out == f"{path}\n"
    assert files(tmp_path) == [path]
    info = probe(tmp_path / path)
    assert (info.height, info.width, info.fps, info.codec) == (32, 32, 8.0, "h264")
    assert len(read_video(tmp_path / path).frames) == 9
    assert "Making 1 video of 9 frames, 32x32 pixels" in outcome.err
    assert "Traceback" not in outcome.err


def test_same_seed_same_file_other_seed_other_file(m4v, tmp_path):
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        assert m4v("generate", PROMPT, "--seed", seed, "--out", f"{name}.mp4").code == 0
    one, two, three = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_several_seeds_and_sentences_from_a_file(m4v, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\n\n# a comment\na blue cube\na red ball!\n")
    outcome = m4v("generate", "--prompts", "prompts.txt", "--num", 2, "--seed", 3, "--out", "videos/")
    assert outcome.code == 0
    assert files(tmp_path / "videos") == sorted(
        f"{name}-seed{seed}.mp4" for name in ("a-red-ball", "a-red-ball-2", "a-blue-cube") for seed in (3, 4)
    )
    assert outcome.out.splitlines()[0] == "videos/a-red-ball-seed3.mp4"
    assert m4v("generate", "a blue cube", "--seed", 4, "--out", "alone.mp4").code == 0
    assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "videos" / "a-blue-cube-seed4.mp4").read_bytes()


def test_all_settings_reach_the_video(m4v, tmp_path):
    Image.fromarray(np.full((40, 70, 3), 200, np.uint8)).save(tmp_path / "first.png")
    outcome = m4v(
        *("generate", PROMPT, "--model", "tiny", "--image", "first.png", "--negative-prompt", "blue", "--frames", 13),
        *("--height", 64, "--width", 32, "--fps", 12.5, "--steps", "2,1,1", "--guidance", "3,2", "--history-window", 2),
        *("--device", "cpu", "--dtype", "float32", "--out", "here/v.mp4", "--gif"),
    )
    assert outcome.code == 0, outcome.err
    assert files(tmp_path) == ["first.png", "here/v.gif", "here/v.mp4"]
    info = probe(tmp_path / "here/v.mp4")
    assert (info.height, info.width, info.fps) == (64, 32, 12.5)
    assert len(read_video(tmp_path / "here/v.mp4").frames) == 13


def test_contact_sheet(m4v, tmp_path):
    assert m4v("generate", PROMPT, "--contact-sheet", "--out", "v.mp4").code == 0
    assert files(tmp_path) == ["v.mp4", "v.png"]


def test_json_goes_to_standard_output_alone_or_to_a_file(m4v, tmp_path):
    outcome = m4v("generate", "--json", PROMPT, "--out", "v.mp4")
    report = json.loads(outcome.out)
    assert report["model"] == "tiny"
    assert report["videos"][0] | {"seconds": 0} == {"prompt": PROMPT, "seed": 0, "path": "v.mp4", "seconds": 0}
    assert json.loads(m4v("generate", PROMPT, "--json").out)["videos"][0]["seed"] == 0
    assert m4v("generate", PROMPT, "--json", "r.json", "--out", "v.mp4").out == "v.mp4\n"
    assert json.loads((tmp_path / "r.json").read_text())["videos"][0]["path"] == "v.mp4"


def test_unknown_words_are_warned_of_once_and_still_generated(m4v, tmp_path):
    outcome = m4v("generate", "a red giraffe", "--num", 2)
    assert outcome.code == 0
    assert outcome.err.count("has not learned: giraffe") == 1
    assert len(files(tmp_path)) == 2


def test_words_beyond_the_limit_are_named(m4v):
    outcome = m4v("generate", "a red ball and a blue cube and a ball and the cube stops")
    assert outcome.code == 0
    assert "longer than 12 tokens; cut off: the cube stops" in outcome.err


def test_longer_than_training_is_noted(m4v):
    outcome = m4v("generate", PROMPT, "--frames", 17)
    assert outcome.code == 0
    assert "--history-window" in outcome.err


def test_peak_memory_is_said_and_reported(m4v, tmp_path):
    outcome = m4v("generate", PROMPT, "--json", "r.json", "--out", "v.mp4")
    peak = json.loads((tmp_path / "r.json").read_text())["peak_memory_bytes"]
    assert 50 * 2**20 < peak < 64 * 2**30
    assert f"Peak memory: {peak / 2**30:.2f} GiB (cpu)." in outcome.err.splitlines()[-1]


def test_guidance_flags_and_tiling_reach_the_pipeline(m4v, monkeypatch):
    seen = {}
    original = M4VPipeline.stream

    def stream(pipeline, prompt, **options):
        seen.update(options, tiling=pipeline.vae.tiling, chunk=pipeline.vae.units_per_chunk)
        return original(pipeline, prompt, **options)

    monkeypatch.setattr(M4VPipeline, "stream", stream)
    assert m4v("generate", PROMPT, "--guidance", 4, "--guidance-decay", 0.5, "--self-guidance", 0.25).code == 0
    assert (seen["guidance_scale"], seen["guidance_decay"], seen["self_guidance_scale"]) == (4.0, 0.5, 0.25)
    assert "video_guidance_scale" not in seen
    assert seen["decode_last"]
    assert seen["tiling"] is None
    assert m4v("generate", PROMPT, "--guidance-decay", "0.5,1.5", "--tiling").code == 0
    assert seen["guidance_decay"] == LinearDecay(slope=0.5, minimum=1.5)
    assert (seen["tiling"].tile_size, seen["chunk"]) == (256, 1)


def test_compiling_and_graphs_reach_the_pipeline(m4v, monkeypatch):
    seen = []
    original = M4VPipeline.stream

    def stream(pipeline, prompt, **options):
        seen.append(pipeline.use_cuda_graphs)
        return original(pipeline, prompt, **options)

    monkeypatch.setattr(M4VPipeline, "stream", stream)
    monkeypatch.setattr(M4VPipeline, "compile_denoiser", lambda pipeline: seen.append("compiled"))
    assert m4v("generate", PROMPT).code == 0
    assert m4v("generate", PROMPT, "--compile", "--no-graphs").code == 0
    assert seen == [True, "compiled", False]


def test_a_crop_and_an_untrained_size_are_said(m4v, tmp_path):
    debug_pipeline(defaults=replace(DEFAULTS, trained_sizes=((32, 32),))).save_pretrained(tmp_path / "model")
    Image.fromarray(np.full((40, 80, 3), 200, np.uint8)).save(tmp_path / "first.png")
    outcome = m4v("generate", PROMPT, "--model", "model", "--image", "first.png", "--height", 64, "--num", 2)
    assert outcome.code == 0
    assert outcome.err.count("not trained for 32x64 pixels") == 1
    assert outcome.err.count("cut off: 30 columns at the left, 30 at the right.") == 1


def test_float16_is_refused_where_it_overflows(m4v, tmp_path):
    debug_pipeline(defaults=replace(DEFAULTS, float16_overflows=True)).save_pretrained(tmp_path / "model")
    outcome = m4v("generate", PROMPT, "--model", "model", "--dtype", "float16")
    assert outcome.code == 2
    assert "Use bfloat16" in outcome.err


def test_a_wan_folder_is_opened_with_its_own_pipeline(m4v, tmp_path):
    wan_pipeline().save_pretrained(tmp_path / "wan")
    outcome = m4v("generate", PROMPT, "--model", "wan", "--out", "v.mp4", "--json", "r.json", "--tiling")
    assert outcome.code == 0, outcome.err
    assert "Making 1 video of 5 frames, 48x32 pixels, with wan on cpu (float32)." in outcome.err
    info = probe(tmp_path / "v.mp4")
    assert (info.height, info.width, info.fps) == (32, 48, 16.0)
    assert json.loads((tmp_path / "r.json").read_text())["peak_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history-window", 2], "history_window is given, but a Wan model"),
        (["--self-guidance", 0.5], "self_guidance_scale is given, but a Wan model"),
        (["--steps", "3,3"], "give one number"),
    ],
)
def test_what_wan_has_not_is_refused(m4v, tmp_path, words, message):
    wan_pipeline().save_pretrained(tmp_path / "wan")
    outcome = m4v("generate", PROMPT, "--model", "wan", *words)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


@pytest.fixture
def broken_models(bundle, tmp_path):
    """Model folders, each with one fault."""
    folders = {}
    for fault in ("truncated", "no-index", "other-config", "no-json"):
        folders[fault] = shutil.copytree(bundle / "tiny", tmp_path / fault)
    weights = folders["truncated"] / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (folders["no-index"] / "model_index.json").unlink()
    config = folders["other-config"] / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_dual_layers": 2}))
    (folders["no-json"] / "vae" / "config.json").write_text("{,")
    return folders


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "Give a sentence"),
        (["generate", ""], "The prompt is empty"),
        (["generate", "   "], "The prompt is empty"),
        (["generate", "zebra giraffe"], "none of the words in 'zebra giraffe' (zebra, giraffe)"),
        (["generate", PROMPT, "--prompts", "p.txt"], "not both"),
        (["generate", "--prompts", "missing.txt"], "missing.txt"),
        (["generate", "--prompts", "empty.txt"], "holds no sentence"),
        (["generate", "--prompts", "binary.txt"], "not UTF-8"),
        (["generate", PROMPT, "--frames", "10"], "use 9 or 13"),
        (["generate", PROMPT, "--frames", "-3"], "num_frames is -3"),
        (["generate", PROMPT, "--height", "50"], "use 32 or 64"),
        (["generate", PROMPT, "--width", "0"], "width is 0"),
        (["generate", PROMPT, "--fps", "0"], "--fps is 0"),
        (["generate", PROMPT, "--steps", "many"], "--steps is 'many'"),
        (["generate", PROMPT, "--steps", "3,3"], "3 pyramid levels"),
        (["generate", PROMPT, "--steps", "0"], "at least 1 step"),
        (["generate", PROMPT, "--guidance", "1,2,3"], "--guidance is 1,2,3"),
        (["generate", PROMPT, "--guidance=-1"], "-1"),
        (["generate", PROMPT, "--guidance", "7,5", "--guidance-decay", "0.5"], "give one of the two"),
        (["generate", PROMPT, "--guidance-decay", "1,2,3"], "--guidance-decay is 1,2,3"),
        (["generate", PROMPT, "--guidance-decay=-1"], "slope -1.0"),
        (["generate", PROMPT, "--guidance-decay", "slow"], "--guidance-decay is 'slow'"),
        (["generate", PROMPT, "--self-guidance=-1"], "self-guidance weight is -1"),
        (["generate", PROMPT, "--offload", "model", "--device", "cpu"], "the device is the CPU"),
        (["generate", PROMPT, "--offload", "sequential", "--device", "cpu"], "the device is the CPU"),
        (["generate", PROMPT, "--offload", "disk"], "disk"),
        (["generate", PROMPT, "--offload", "sequential", "--compile"], "--compile and --offload sequential"),
        (["generate", PROMPT, "--history-window", "0"], "history_window is 0"),
        (["generate", PROMPT, "--seed", "-1"], "seed is -1"),
        (["generate", PROMPT, "--num", "0"], "--num is 0"),
        (["generate", PROMPT, "--image", "missing.png"], "missing.png"),
        (["generate", PROMPT, "--image", "binary.txt"], "binary.txt"),
        (["generate", PROMPT, "--model", "tinny"], "bundled: tiny"),
        (["generate", PROMPT, "--model", "./nowhere"], "no model './nowhere'"),
        (["generate", PROMPT, "--model", "empty.txt"], "is a file"),
        (["generate", PROMPT, "--out", "v.gif"], "add --gif"),
        (["generate", PROMPT, "--out", "v.mp4", "--num", "2"], "name a folder"),
        (["generate", PROMPT, "--out", "empty.txt/v.mp4"], "Cannot write empty.txt/v.mp4"),
        (["generate", PROMPT, "--out", "/proc/nowhere/v.mp4"], "Cannot write /proc/nowhere/v.mp4"),
        (["generate", PROMPT, "--json", "empty.txt/r.json"], "Cannot write empty.txt/r.json"),
        (["generate", PROMPT, "--device", "tpu"], "tpu"),
        (["generate", PROMPT, "--frames", "nine"], "nine"),
        (["generate", PROMPT, "--colour", "red"], "--colour"),
        (["paint", PROMPT], "no verb 'paint'"),
    ],
)
def test_bad_input_is_code_2_with_a_message_and_no_file(m4v, tmp_path, words, message):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "p.txt").write_text("a ball")
    before = files(tmp_path)
    outcome = m4v(*words)
    assert outcome.code == 2
    assert message in " ".join((outcome.err + outcome.out).split())
    assert "Traceback" not in outcome.err
    assert files(tmp_path) == before
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("truncated", "cut off"),
        ("no-index", "has no model_index.json"),
        ("other-config", "another configuration"),
        ("no-json", "vae/config.json is not valid JSON"),
    ],
)
def test_broken_models_are_explained(m4v, tmp_path, broken_models, fault, message):
    outcome = m4v("generate", PROMPT, "--model", broken_models[fault])
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_an_interruption_is_code_130_and_leaves_nothing(m4v, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_write", interrupt)
    outcome = m4v("generate", PROMPT)
    assert outcome.code == 130
    assert "Interrupted" in outcome.err
    assert files(tmp_path) == []


@pytest.mark.parametrize("words", [("--seed", "-1"), ("--seed", str(2**63 - 2), "--num", "2")])
def test_seeds_out_of_range_are_refused_before_the_first_video(m4v, tmp_path, words):
    outcome = m4v("generate", PROMPT, *words)
    assert outcome.code == 2
    assert f"--seed is {words[1]}; expected a whole number from 0 to" in outcome.err
    assert files(tmp_path) == []


def test_a_lora_before_the_prompt_does_not_swallow_it():
    arguments = tyro.cli(generate.GenerateArguments, args=["--lora", "a", "--lora", "b", "a red ball"])
    assert arguments.lora == (Path("a"), Path("b"))
    assert arguments.prompt == "a red ball"
