"""`m4v train`: recipes, overrides, settings files, and what it refuses."""

import numpy as np
import pytest

from m4v.cli.train import parse
from m4v.core.errors import UserError
from m4v.media.video import write_video
from m4v.recipes.registry import RECIPES, get_recipe


def arguments(*words: str):
    return parse("m4v train", list(words))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_flags_is_the_recipe(name):
    assert arguments(name).recipe == get_recipe(name)


def test_every_field_is_a_flag():
    parsed = arguments("debug", "--t2v.optim.lr", "0.5", "--data.tier", "m", "--seed", "3", "--data", "videos")
    assert parsed.recipe.t2v.optim.lr == 0.5
    assert parsed.recipe.data.tier == "m"
    assert parsed.recipe.seed == 3
    assert str(parsed.data) == "videos"
    assert parsed.recipe.t2i == get_recipe("debug").t2i


def test_settings_files_lie_between_recipe_and_flags(tmp_path):
    (tmp_path / "s.toml").write_text('precision = "bf16"\n[t2v.optim]\nlr = 0.25\nwarmup_steps = 7\n')
    parsed = arguments("debug", "--settings", str(tmp_path / "s.toml"), "--t2v.optim.lr", "0.5")
    assert parsed.recipe.precision == "bf16"
    assert parsed.recipe.t2v.optim.warmup_steps == 7
    assert parsed.recipe.t2v.optim.lr == 0.5
    equals = arguments("debug", f"--settings={tmp_path / 's.toml'}")
    assert equals.recipe.t2v.optim.lr == 0.25


@pytest.mark.parametrize(
    ("content", "message"),
    [("lr = ", "not valid TOML"), ("colour = 3", "Unknown setting colour"), ("[t2v.optim]\nlr = 'x'", "t2v.optim.lr")],
)
def test_bad_settings_files_are_explained(tmp_path, content, message):
    (tmp_path / "s.toml").write_text(content)
    with pytest.raises(UserError, match=message):
        arguments("debug", "--settings", str(tmp_path / "s.toml"))


def test_overview_lists_the_recipes(m4v):
    outcome = m4v("train", "--help")
    assert outcome.code == 0
    for name in RECIPES:
        assert name in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name a recipe first"),
        (["--data", "x"], "Name a recipe first"),
        (["painting"], "no recipe 'painting'"),
        (["debug", "--settings", "none.toml"], "none.toml"),
        (["debug", "--t2v.optim.lr", "fast"], "fast"),
        (["debug", "--t2v.optim.lr", "-1"], "optim.lr is -1"),
        (["debug", "--max-steps", "0"], "--max-steps is 0"),
        (["debug", "--device", "abacus"], "abacus"),
        (["debug", "--data", "none"], "none"),
        (["debug", "--data", "empty"], "empty"),
        (["debug", "--resume", "nowhere/step-3"], "nowhere/step-3"),
        (["toybox-xs-t2v", "--device", "cpu"], "--init-from"),
        (["toybox-xs-t2v", "--init-from", "nothing"], "nothing"),
        (["finetune", "--init-from", "tiny"], "--data"),
    ],
)
def test_bad_input_is_code_2_without_a_run_left_behind(m4v, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    outcome = m4v("train", *words)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err + outcome.out
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.glob("runs/*/checkpoints/step-*"))


@pytest.fixture
def videos(tmp_path):
    for number in range(8):
        frames = np.random.default_rng(number).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
        write_video(tmp_path / "videos" / f"{number}.mp4", frames, 8.0)
        (tmp_path / "videos" / f"{number}.txt").write_text("a red ball rolls to the right")
    return tmp_path / "videos"


def test_train_on_a_folder_then_generate_with_the_result(m4v, videos, tmp_path):
    outcome = m4v("train", "debug", "--data", videos, "--run", "run", "--device", "cpu", "--precision", "fp32")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "run/export\n"
    made = m4v("generate", "a red ball", "--model", "run/export", "--out", "v.mp4", "--steps", 1, "--device", "cpu")
    assert made.code == 0, made.err
    assert (tmp_path / "v.mp4").is_file()


def test_a_limited_run_goes_on(m4v, videos):
    common = ("train", "debug", "--data", videos, "--run", "run", "--device", "cpu")
    first = m4v(*common, "--max-steps", 4)
    assert first.code == 0, first.err
    assert "run the same command to go on" in first.err
    second = m4v(*common)
    assert second.code == 0, second.err
    assert "Resuming at step 4" in second.err
    refused = m4v(*common, "--resume", "never")
    assert refused.code == 2
