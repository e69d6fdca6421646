"""Every stage of the paper, one after the other by `--init-from`, a few steps each."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba
from m4v.core.config_io import to_plain
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from m4v.recipes.debug import debug
from m4v.recipes.registry import get_recipe
from m4v.training.config import STAGE_NAMES, ModelsConfig, PerDevice, RunConfig
from m4v.training.run import train


def shrunk(name: str) -> RunConfig:
    """The recipe's own stages, mixture, sources and proportions with debug networks on three small clips."""
    config, small = get_recipe(name), debug()
    plan = config.models.denoiser.mixer_plan
    models = (
        ModelsConfig(base="wan")
        if config.models.base == "wan"
        else replace(small.models, denoiser=replace(small.models.denoiser, mixer_plan=plan))
    )
    stages = {}
    for stage in STAGE_NAMES:
        settings = config.stage(stage)
        steps = PerDevice(cpu=min(2, settings.steps.cpu), accelerator=0)
        size = 1 if stage in ("vae", "clips") else 4
        stages[stage] = replace(settings, steps=steps, batch_size=PerDevice(cpu=size, accelerator=size))
    stages["vae"] = replace(stages["vae"], num_validation_clips=1, num_statistics_clips=2)
    stages["reward"] = replace(
        stages["reward"],
        rows=PerDevice(cpu=1, accelerator=1),
        guard=replace(stages["reward"].guard, num_samples=PerDevice(cpu=0, accelerator=0)),
    )
    data = replace(
        config.data,
        tier="xs",
        num_clips=PerDevice(cpu=3, accelerator=3),
        num_frames={9: 5, 17: 9, 25: 13, 33: 17}[config.data.num_frames],
        height=config.data.height // 2,
        width=config.data.width // 2,
        num_threads=1,
    )
    return replace(
        config,
        data=replace(data, height=min(data.height, 64), width=min(data.width, 64)),
        models=models,
        precision="fp32",
        samples=replace(config.samples, prompts=("a red ball",), first_steps=1, later_steps=1),
        saving=replace(config.saving, log_every=1),
        **stages,
    )


def run(name: str, folder: Path, init_from: Path | None = None, **changes: object) -> Path:
    """Train a shrunk recipe; every logged loss must be finite."""
    config = replace(shrunk(name), **changes)
    export = train(config, run_dir=folder / name, device="cpu", init_from=init_from)
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert json.loads((folder / name / "config.json").read_text())["name"] == to_plain(config)["name"]
    return export


@pytest.mark.slow
def test_the_ladder_of_the_pyramid_base_runs_from_attention_to_reward(tmp_path: Path) -> None:
    vae = run("toybox-m-vae", tmp_path)
    base = run("toybox-attention-base", tmp_path, vae)
    convert_attention_to_mamba(base, tmp_path / "converted", MambaInitialisation(plan="full"))
    match = shrunk("toybox-match").match
    step = run("toybox-match", tmp_path, tmp_path / "converted", match=replace(match, teacher=str(base)))
    for name in ("convert", "t2i", "t2v-short", "t2v-long", "t2v-large", "t2v-large-long", "quality", "reward"):
        step = run(f"toybox-{name}", tmp_path, step)
    run("toybox-ablation", tmp_path, tmp_path / "converted")
    assert M4VPipeline.from_pretrained(step)("a red ball", num_frames=5, seed=0).frames.shape[1] == 5


@pytest.mark.slow
def test_the_ladder_of_the_wan_base_runs_from_nothing(tmp_path: Path) -> None:
    short = run("toybox-wan-short", tmp_path)
    longer = run("toybox-wan-long", tmp_path, short)
    assert WanM4VPipeline.from_pretrained(longer)("a red ball", num_inference_steps=1, seed=0).frames.shape[1] == 9
