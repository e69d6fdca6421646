"""Clips of several sizes and lengths in one run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m4v.checkpoints.run_folder import RunFolder
from m4v.cli.train_plan import TrainingPlan
from m4v.cli.train_plan_lines import plan_lines
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.media.images import write_png
from m4v.media.video import write_video
from m4v.training.bucketed_data import bucket_sources
from m4v.training.bucketed_objective import BucketedObjective, BucketObjective
from m4v.training.config import PerDevice, RunConfig
from m4v.training.data_config import BucketConfig, DataConfig
from m4v.training.loop import LossTerm
from m4v.training.progress import ignore_progress
from m4v.training.run import train

from .conftest import NUM_FRAMES, SIZE, moving_square

MAIN = BucketConfig(num_frames=NUM_FRAMES, height=SIZE, width=SIZE)
WIDE = BucketConfig(num_frames=NUM_FRAMES, height=SIZE, width=2 * SIZE)
SHORT = BucketConfig(num_frames=5, height=SIZE, width=SIZE, batch_share=2.0)
PICTURE = BucketConfig(num_frames=1, height=SIZE, width=SIZE, batch_share=3.0)
COUNT = PerDevice(cpu=100, accelerator=100)


@pytest.fixture
def mixed_sizes(video_folder: Path, tmp_path: Path) -> Path:
    """Six square videos, three wide ones, three short ones, a very short one and two pictures."""
    folder = tmp_path / "mixed"
    shutil.copytree(video_folder, folder)
    for index in range(3):
        frames = moving_square(index).frames
        write_video(folder / f"wide-{index}.mp4", np.tile(frames, (1, 1, 2, 1)), 8.0)
        write_video(folder / f"short-{index}.mp4", frames[:5], 8.0)
    write_video(folder / "brief.mp4", moving_square(0).frames[:3], 8.0)
    for index in range(2):
        write_png(folder / f"picture-{index}.png", moving_square(index).frames[0])
    for file in [*folder.glob("*-?.*"), folder / "brief.mp4"]:
        file.with_suffix(".txt").write_text("a square")
    return folder


def data_of(folder: Path, *buckets: BucketConfig) -> DataConfig:
    return DataConfig(
        source="folder",
        folder=str(folder),
        num_clips=COUNT,
        num_images=COUNT,
        num_frames=NUM_FRAMES,
        height=SIZE,
        width=SIZE,
        num_threads=1,
        buckets=buckets,
    )


@pytest.fixture
def bucketed_run(tiny_run: RunConfig, mixed_sizes: Path) -> RunConfig:
    stage = replace(tiny_run.t2v, steps=PerDevice(cpu=7, accelerator=7), videos_per_window=3)
    return replace(tiny_run, t2v=stage, data=data_of(mixed_sizes, MAIN, WIDE, SHORT, PICTURE))


def test_every_file_goes_to_one_bucket_at_its_size_or_is_named(mixed_sizes: Path) -> None:
    messages: list[str] = []
    sources = bucket_sources(
        data_of(mixed_sizes, MAIN, WIDE, SHORT, PICTURE), 100, 100, 4, lambda p: messages.append(p.message or "")
    )
    # One of the thirteen videos, the last by name, is held back.
    names = {source.bucket.name: {source.name(i).split(".")[0] for i in range(len(source))} for source in sources}
    assert names == {
        MAIN.name: {"0", "1", "2", "3", "4", "5"},
        WIDE.name: {"wide-0", "wide-1"},
        SHORT.name: {"short-0", "short-1", "short-2"},
        PICTURE.name: {"picture-0", "picture-1"},
    }
    assert "1 x shorter than every bucket, for example brief.mp4 (3 frames, 5 are needed)" in messages[0]
    for source in sources:
        bucket = source.bucket
        assert source.clip(0).frames.shape == (bucket.num_frames, bucket.height, bucket.width, 3)


def test_a_run_trains_on_all_buckets_and_resumes_bit_for_bit(bucketed_run: RunConfig, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run = replace(
        bucketed_run,
        vae=replace(bucketed_run.vae, steps=PerDevice(cpu=1, accelerator=1)),
        t2i=replace(bucketed_run.t2i, steps=PerDevice(cpu=0, accelerator=0)),
    )
    train(run, run_dir=whole, device="cpu")
    train(run, run_dir=resumed, device="cpu", max_steps=3)
    train(run, run_dir=resumed, device="cpu")
    states = []
    for path in (whole, resumed):
        folder = RunFolder(path)
        states.append(folder.load_step(folder.latest_step()))
    for part, tensors in states[0][0].items():
        for name, value in tensors.items():
            assert torch.equal(value, states[1][0][part][name]), f"{part} {name}"
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line.get("stage") == "t2v" and "image_batches" in line][-1]
    assert (last["image_batches"] + last["video_batches"], last["stage_step"]) == (7, 7)
    banks = list((whole / "cache").glob("latents-*.safetensors"))
    assert len(banks) == 4


class Counted:
    """An objective that only tells its steps."""

    modules: dict[str, torch.nn.Module] = {}  # noqa: RUF012

    def __init__(self, items: int) -> None:
        self.items = items

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {"step": torch.tensor(step)}

    def terms(self, batch, step: int):
        yield LossTerm(loss=batch["step"] * 1.0, weight=1.0, metrics={}, kind="video/level-0", is_last=True)

    def num_items(self, step: int) -> int:
        return self.items

    def facts(self, step: int):
        return {}


def test_buckets_take_turns_by_their_batches_and_number_their_own_steps() -> None:
    parts = [
        BucketObjective("a", "video", Counted(4), 5),
        BucketObjective("b", "video", Counted(8), 1),
        BucketObjective("c", "image", Counted(12), 3),
    ]
    objective = BucketedObjective(parts, images_per_window=1, videos_per_window=3, seed=3)
    turns = [objective.turn(step) for step in range(96)]
    names = [part.name for part, _ in turns]
    assert [names.count(name) for name in "abc"] == [60, 12, 24]  # videos 5:1, images 1:3
    for name in "abc":  # no own step is left out or comes twice
        assert [own for part, own in turns if part.name == name] == list(range(names.count(name)))
    assert [objective.num_items(step) for step in range(96)] == [{"a": 4, "b": 8, "c": 12}[name] for name in names]
    for step in range(8):
        (term,) = objective.terms(objective.batch(step), step)
        assert term.loss == turns[step][1]
        assert term.kind == f"{names[step]}/video/level-0"
    assert objective.facts(95) == {"image_batches": 24, "video_batches": 72}
    again = BucketedObjective(parts, images_per_window=1, videos_per_window=3, seed=3)
    assert again.turn(77) == turns[77]
    with pytest.raises(UserError, match="no bucket has any"):
        BucketedObjective(parts[:2], images_per_window=1, videos_per_window=3, seed=3)


def test_first_frames_are_the_images_where_there_are_none(bucketed_run: RunConfig, tmp_path: Path) -> None:
    data = replace(bucketed_run.data, buckets=(MAIN, SHORT))
    stage = replace(bucketed_run.t2i, steps=PerDevice(cpu=3, accelerator=3))
    config = replace(
        bucketed_run, data=data, t2i=stage, t2v=replace(bucketed_run.t2v, steps=PerDevice(cpu=0, accelerator=0))
    )
    messages: list[str] = []
    export = train(
        config, run_dir=tmp_path / "run", device="cpu", on_progress=lambda p: messages.append(p.message or "")
    )
    assert (export / "model_index.json").is_file()
    assert any("2 x no bucket for images" in message for message in messages)


def test_the_dry_run_says_which_size_its_figures_are_of(bucketed_run: RunConfig) -> None:
    plan = TrainingPlan(
        recipe="r", device="cpu", num_devices=1, flops_per_second=1.0, rate_source="", stages=(), sources=(), config={}
    )
    lines = plan_lines(replace(plan, config=to_plain(bucketed_run)))
    assert "  bucket 32x32x5, 2 of the batch" in lines
    assert "  Figures are of the run's own size 32x32x9." in lines


def test_buckets_that_cannot_work_are_refused(
    tiny_run: RunConfig, mixed_sizes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"one of them must be the size and length of the run, {MAIN.name}"):
        data_of(mixed_sizes, WIDE)
    with pytest.raises(UserError, match="Two buckets have one size"):
        data_of(mixed_sizes, MAIN, replace(MAIN, batch_share=2.0))
    with pytest.raises(UserError, match="leave out it or buckets"):
        replace(data_of(mixed_sizes, MAIN), cache="cache")
    with pytest.raises(UserError, match=r"batch_share 0\.75.*multiple of the 4 columns"):
        replace(SHORT, batch_share=0.75).batch_size(4, 4)
    assert SHORT.batch_size(4, 4) == 8
    tall = replace(
        data_of(mixed_sizes, MAIN, SHORT),
        height=64,
        width=32,
        buckets=(BucketConfig(num_frames=NUM_FRAMES, height=64, width=32), MAIN),
    )
    with pytest.raises(UserError, match="No usable clip in bucket 64x32x9"):
        bucket_sources(tall, 100, 100, 4, ignore_progress)
    with pytest.raises(UserError, match="one folder"):
        bucket_sources(replace(data_of(mixed_sizes, MAIN), source="toybox", folder=None), 100, 100, 4, ignore_progress)
    one = PerDevice(cpu=1, accelerator=1)
    config = replace(tiny_run, data=data_of(mixed_sizes, MAIN, SHORT), match=replace(tiny_run.match, steps=one))
    with pytest.raises(UserError, match="the stage match trains clips of one size"):
        train(config, run_dir=tmp_path / "run", device="cpu")
