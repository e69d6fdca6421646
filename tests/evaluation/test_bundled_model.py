"""The bundled model does what its card says: a sentence becomes the video it describes."""

import json

import pytest

from m4v.checkpoints.bundled import bundled_models, default_bundled_model
from m4v.models.denoiser.config import PRESETS, denoiser_config
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.recipes.registry import get_recipe
from m4v.toybox.oracles.judge import judge

PROMPTS = {
    "a red ball rolls to the right on the grass": ("red", "ball", "right"),
    # A pair that training never showed.
    "an orange car drives to the left on the sand": ("orange", "car", "left"),
}


def test_sentences_become_the_videos_they_describe() -> None:
    pipeline = M4VPipeline.from_pretrained(default_bundled_model())
    pipeline.set_progress_bar_config(disable=True)
    videos = pipeline(list(PROMPTS), seed=0).frames
    verdicts = [judge(video, tier="xs") for video in videos]
    assert [(verdict.colour, verdict.object, verdict.motion) for verdict in verdicts] == list(PROMPTS.values())


@pytest.mark.parametrize("name", bundled_models())
def test_the_recipe_still_describes_the_bundled_networks(name: str) -> None:
    folder = bundled_models()[name]
    transformer = json.loads((folder / "transformer" / "config.json").read_text())
    known = {key: value for key, value in transformer.items() if not key.startswith("_")}
    vae = json.loads((folder / "vae" / "config.json").read_text())
    recipe = get_recipe(name)
    config = denoiser_config(known)
    assert (config.width, config.kinds, config.recomposition) == (
        PRESETS[name].width,
        PRESETS[name].kinds,
        PRESETS[name].recomposition,
    )
    assert isinstance(recipe.models.vae, CausalVideoVAEConfig)
    for field in ("encoder_widths", "decoder_widths", "encoder_resnets", "decoder_resnets", "front_patch"):
        stored = vae[field]
        assert getattr(recipe.models.vae, field) == (tuple(stored) if isinstance(stored, list) else stored)


@pytest.mark.parametrize("name", bundled_models())
def test_the_training_log_and_facts_travel_with_the_weights(name: str) -> None:
    folder = bundled_models()[name]
    facts = json.loads((folder / "training.json").read_text())
    assert {"commit", "config", "device", "stages"} <= set(facts)
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"vae", "t2i", "t2v"}
