"""Whole-clip training on the Wan base: from a folder of diffusers' classes, on, and out again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m4v.core.errors import UserError
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from m4v.recipes.debug import debug
from m4v.training.config import (
    DataConfig,
    FullSequenceStageConfig,
    ModelsConfig,
    OptimConfig,
    PerDevice,
    RunConfig,
    SamplesConfig,
    SavingConfig,
)
from m4v.training.run import train
from tests.pipelines.wan_parts import wan_pipeline


def both(count: int) -> PerDevice:
    return PerDevice(cpu=count, accelerator=count)


def wan_run(folder: Path, steps: int = 3) -> RunConfig:
    return RunConfig(
        name="wan-test",
        data=DataConfig(
            source="folder",
            folder=str(folder),
            num_clips=both(4),
            num_frames=5,
            height=32,
            width=32,
            fps=8.0,
            num_threads=1,
        ),
        models=ModelsConfig(base="wan"),
        clips=FullSequenceStageConfig(
            steps=both(steps),
            batch_size=both(2),
            images_per_window=1,
            videos_per_window=1,
            optim=OptimConfig(lr=3e-2, warmup_steps=0),
        ),
        precision="fp32",
        samples=SamplesConfig(prompts=("a red ball",), every_steps=both(1000), first_steps=1),
        saving=SavingConfig(log_every=1),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan") / "base"
    wan_pipeline(mixer_plan="full").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    train(wan_run(video_folder), run_dir=run, device="cpu", init_from=base)
    return run


def test_the_export_opens_as_a_wan_pipeline_with_a_changed_denoiser_and_the_same_rest(base, trained) -> None:
    pipeline = WanM4VPipeline.from_pretrained(trained / "export")
    before = WanM4VPipeline.from_pretrained(base)
    changed = [
        name
        for (name, new), old in zip(
            pipeline.transformer.named_parameters(), before.transformer.parameters(), strict=True
        )
        if not torch.allclose(new.float(), old.float(), atol=1e-2)
    ]
    assert changed
    for part in ("vae", "text_encoder"):
        pairs = zip(getattr(pipeline, part).parameters(), getattr(before, part).parameters(), strict=True)
        assert all(torch.equal(new, old) for new, old in pairs)
    assert pipeline.generation_defaults.num_frames == 5
    assert pipeline.generation_defaults.first_steps == before.generation_defaults.first_steps
    assert pipeline("a red ball", num_inference_steps=1, seed=0).frames.shape == (1, 5, 32, 32, 3)


def test_checkpoints_do_not_repeat_the_frozen_parts(trained, base) -> None:
    (checkpoint,) = (trained / "checkpoints").iterdir()
    names = [name for file in checkpoint.glob("*.safetensors") for name in load_file(file)]
    assert names
    assert not [name for name in names if name.startswith(("vae/", "text_encoder/"))]
    assert json.loads((trained / "base.json").read_text())["folder"] == str(base)


def test_a_stopped_run_goes_on_bit_for_bit(base, video_folder, tmp_path) -> None:
    config = wan_run(video_folder, steps=4)
    whole = train(config, run_dir=tmp_path / "whole", device="cpu", init_from=base)
    train(config, run_dir=tmp_path / "parts", device="cpu", init_from=base, max_steps=2)
    parts = train(config, run_dir=tmp_path / "parts", device="cpu")
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_metrics_count_images_and_videos_and_samples_are_made(trained) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"clips"}
    assert lines[-1]["image_batches"] + lines[-1]["video_batches"] == 3
    assert list((trained / "samples").rglob("*.mp4"))


def test_a_moved_base_is_named_when_going_on(base, video_folder, tmp_path) -> None:
    config = wan_run(video_folder, steps=2)
    moved = tmp_path / "moved"
    wan_pipeline(mixer_plan="full").save_pretrained(tmp_path / "here")
    train(config, run_dir=tmp_path / "run", device="cpu", init_from=tmp_path / "here", max_steps=1)
    (tmp_path / "here").rename(moved)
    with pytest.raises(UserError, match="is not there any more"):
        train(config, run_dir=tmp_path / "run", device="cpu")
    train(config, run_dir=tmp_path / "run", device="cpu", init_from=moved)


def test_a_small_wan_model_is_trained_from_nothing(tmp_path) -> None:
    config = debug()
    data = replace(config.data, num_clips=both(3), num_frames=5)
    stages = {
        "vae": replace(config.vae, steps=both(1), batch_size=both(1), num_statistics_clips=2, num_validation_clips=1),
        "t2i": replace(config.t2i, steps=both(0)),
        "t2v": replace(config.t2v, steps=both(0)),
        "clips": FullSequenceStageConfig(steps=both(1), batch_size=both(1), train_text=True, optim=config.t2v.optim),
    }
    config = replace(config, data=data, models=ModelsConfig(base="wan"), **stages)
    export = train(config, run_dir=tmp_path / "run", device="cpu")
    pipeline = WanM4VPipeline.from_pretrained(export)
    assert pipeline("a red ball", num_inference_steps=1, seed=0).frames.shape[1] == 5
    assert pipeline.vae.config["latents_mean"] != [0.0] * 4


def test_a_stage_of_the_other_base_is_refused(base, video_folder, tmp_path, tiny_run) -> None:
    with pytest.raises(UserError, match="Wan recipe"):
        train(tiny_run, run_dir=tmp_path / "a", device="cpu", init_from=base)
    wrong = replace(wan_run(video_folder), models=ModelsConfig())
    with pytest.raises(UserError, match="Stage clips cannot train the pyramid base"):
        train(wrong, run_dir=tmp_path / "b", device="cpu", init_from=base)
