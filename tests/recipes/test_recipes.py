import subprocess
import sys
from dataclasses import replace

import pytest

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.data.toybox_source import ToyboxSource
from m4v.media.video import write_video
from m4v.models.text.tokenizer import build_tokenizer, unknown_words
from m4v.recipes import toybox_m, toybox_xs
from m4v.recipes.debug import debug
from m4v.recipes.registry import RECIPES, get_recipe, list_recipes
from m4v.toybox.caption_parser import parse
from m4v.toybox.captions import VOCABULARY
from m4v.toybox.heldout import is_held_out_motion, is_held_out_pair
from m4v.training.config import STAGE_NAMES, PerDevice, RunConfig
from m4v.training.run import train


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_plain_types(name):
    config = get_recipe(name)
    assert from_plain(RunConfig, to_plain(config)) == config
    assert config.name == name
    for device_type in ("cpu", "cuda"):
        assert config.stages(device_type)


def test_every_recipe_says_what_it_does():
    assert all(len(line) > 10 for line in list_recipes().values())


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UserError, match="toybox-xs"):
        get_recipe("nope")


def test_recipes_import_without_torch():
    code = (
        "import sys, m4v.recipes.registry as r; [r.get_recipe(n) for n in r.RECIPES]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("prompt", [*toybox_xs.PROMPTS, *toybox_m.PROMPTS])
def test_sample_prompts_are_known_and_seen_in_training(prompt):
    """Otherwise a bad sample would say nothing about how training goes."""
    assert unknown_words(build_tokenizer(VOCABULARY), prompt) == []
    for thing in parse(prompt).objects:
        assert not is_held_out_pair(thing.kind, thing.colour)
        assert not any(is_held_out_motion(thing.kind, motion.name) for motion in thing.motions)


def shrunk(name):
    """The recipe's own stages, world and mixture with debug networks and a few steps on a few clips."""
    config, small = get_recipe(name), debug()

    def few(stage, count):
        return replace(stage, steps=PerDevice(cpu=min(count, stage.steps.cpu), accelerator=0))

    return replace(
        config,
        data=replace(config.data, num_clips=PerDevice(cpu=2, accelerator=2), num_threads=1),
        models=small.models,
        vae=replace(few(config.vae, 1), batch_size=PerDevice(cpu=1, accelerator=1), num_validation_clips=1),
        t2i=replace(few(config.t2i, 1), batch_size=PerDevice(cpu=4, accelerator=4)),
        t2v=replace(few(config.t2v, 2), batch_size=PerDevice(cpu=4, accelerator=4)),
        precision="fp32",
        samples=replace(config.samples, prompts=config.samples.prompts[:1], first_steps=1, later_steps=1),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("debug")
    train(debug(), run_dir=run_dir, device="cpu")
    return run_dir


SHORT_CHAINS = [name for name in RECIPES if name.startswith(("toybox-xs", "toybox-m-")) or name == "toybox-m"]
# Its watch over the oracle samples for minutes; tests/training/test_reward_stage.py runs it with few samples.
SHORT_CHAINS.remove("toybox-xs-reward")


@pytest.mark.parametrize("name", SHORT_CHAINS)
def test_every_toybox_recipe_runs_a_few_steps(name, trained, tmp_path):
    config = shrunk(name)
    needs_start = config.stages("cpu")[0][0] != "vae"
    export = train(config, run_dir=tmp_path, device="cpu", init_from=trained if needs_start else None)
    assert (export / "vae").is_dir()
    ran = [stage for stage in STAGE_NAMES if config.stage(stage).steps.cpu]
    assert (export / "model_index.json").is_file() == (ran != ["vae"])


def test_finetune_takes_size_and_words_from_the_model(trained, tmp_path):
    source = ToyboxSource("xs", num_clips=3, seed=5)
    for index in range(3):
        clip = source.clip(index)
        write_video(tmp_path / "videos" / f"{index}.mp4", clip.frames, clip.fps)
        (tmp_path / "videos" / f"{index}.txt").write_text(clip.captions[0])
    config = shrunk("finetune")
    export = train(config, run_dir=tmp_path / "run", data=tmp_path / "videos", init_from=trained, device="cpu")
    assert (export / "model_index.json").is_file()
    assert list((tmp_path / "run" / "samples").rglob("*.mp4"))
