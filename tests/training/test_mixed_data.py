"""Several sources, still pictures, and large bases with text encoders of their own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m4v.core.errors import UserError
from m4v.data.mixed_source import MixedSource, WeightedSource
from m4v.media.images import write_png
from m4v.training.bank_draws import BankDraws
from m4v.training.config import DataConfig, PerDevice
from m4v.training.data_config import SourceConfig, missing_folders, with_folder
from m4v.training.progress import ignore_progress
from m4v.training.run import train
from m4v.training.sources import open_sources, shrink, training_clips, training_images

from .conftest import NUM_FRAMES, SIZE, moving_square


class Squares:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int):
        return moving_square(index)


@pytest.fixture
def mixed_folder(video_folder: Path, tmp_path: Path) -> Path:
    """Six videos and three pictures."""
    for file in video_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for index in range(3):
        write_png(tmp_path / f"picture-{index}.png", moving_square(index).frames[0])
        (tmp_path / f"picture-{index}.txt").write_text("a picture")
    return tmp_path


def test_weights_are_exact_in_every_window() -> None:
    mixed = MixedSource([WeightedSource("a", Squares(30), 3), WeightedSource("b", Squares(5), 1)], 40)
    names = [mixed.clip(index).source.split(":")[0] for index in range(len(mixed))]
    assert len(mixed) == 40
    assert all(names[start : start + 4].count("b") == 1 for start in range(0, 40, 4))
    assert mixed.counts() == {"a": 30, "b": 10}


def test_the_longest_source_comes_once() -> None:
    mixed = MixedSource([WeightedSource("a", Squares(6), 2), WeightedSource("b", Squares(2), 1)], 1000)
    assert len(mixed) == 9
    firsts = [mixed.clip(index) for index in range(9)]
    assert len({clip.source for clip in firsts if clip.source.startswith("a:")}) >= 4


def test_a_folder_gives_videos_and_pictures_apart(mixed_folder: Path) -> None:
    data = DataConfig(source="folder", folder=str(mixed_folder), num_frames=NUM_FRAMES, height=SIZE, width=SIZE)
    opened = open_sources(data, 100, 0, 4, ignore_progress)
    clips, images = training_clips(opened, 100), training_images(opened, 100)
    assert images is not None
    assert (len(clips), len(images)) == (6, 3)
    assert {clips.clip(index).frames.shape[0] for index in range(6)} == {NUM_FRAMES}
    assert {images.clip(index).frames.shape[0] for index in range(3)} == {1}
    assert training_images(opened, 0) is None


def test_image_steps_draw_pictures_only_and_each_once_per_round(bank) -> None:
    pictures = replace(bank, latents=torch.full((3, 4, 1, 8, 8), 7.0), caption_rows=bank.caption_rows[:3])
    pictures.latents[:, 0, 0, 0, 0] = torch.arange(3.0)
    draws = BankDraws(bank, 0, 1, images_per_window=1, videos_per_window=2, text_drop=0.0, images=pictures)
    seen = []
    for step in range(9):
        latents = draws.batch(step)["latents"]
        assert (latents.shape[2] == 1) == draws.is_image_step(step)
        if draws.is_image_step(step):
            seen.append(latents[0, 0, 0, 0, 0].item())
    assert sorted(seen) == [0.0, 1.0, 2.0]


def test_a_run_trains_on_pictures_and_videos_of_a_folder(mixed_folder: Path, tiny_run, tmp_path: Path) -> None:
    config = replace(tiny_run, data=replace(tiny_run.data, folder=str(mixed_folder)))
    messages: list[str] = []
    train(config, run_dir=tmp_path / "run", device="cpu", on_progress=lambda p: messages.append(p.message or ""))
    assert any("3 still images serve image batches" in message for message in messages)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["image_batches"] + last["video_batches"] == last["stage_step"]


def test_a_folder_of_pictures_is_enough_for_text_to_image(tiny_run, mixed_folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train(tiny_run, run_dir=whole, device="cpu")
    for file in mixed_folder.glob("?.*"):
        file.unlink()
    none = PerDevice(cpu=0, accelerator=0)
    config = replace(
        tiny_run,
        data=replace(tiny_run.data, folder=str(mixed_folder)),
        vae=replace(tiny_run.vae, steps=none),
        t2v=replace(tiny_run.t2v, steps=none),
    )
    export = train(config, run_dir=tmp_path / "run", device="cpu", init_from=whole)
    assert (export / "model_index.json").is_file()


def test_named_folders_are_looked_for_in_the_folder_given(tmp_path: Path) -> None:
    data = DataConfig(source="folder", sources=(SourceConfig(name="one"), SourceConfig(name="two", weight=3)))
    assert [source.name for source in missing_folders(data)] == ["one", "two"]
    (tmp_path / "one").mkdir()
    with pytest.raises(UserError, match="has no two"):
        with_folder(data, tmp_path)
    (tmp_path / "two").mkdir()
    placed = with_folder(data, tmp_path)
    assert [source.path for source in placed.sources] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert missing_folders(placed) == ()
    alone = with_folder(data, tmp_path / "one")
    assert (alone.folder, alone.sources) == (str(tmp_path / "one"), ())


def test_shrinking_takes_the_mean_of_squares() -> None:
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[0, :2, :2, 0] = [[10, 20], [30, 40]]
    assert shrink(frames, 2)[0, 0, 0].tolist() == [25, 0, 0]
    assert shrink(frames, 2).shape == (1, 2, 2, 3)


def test_toybox_sources_of_other_streams_give_other_clips() -> None:
    sources = (SourceConfig(name="a", kind="toybox"), SourceConfig(name="b", kind="toybox", stream=1))
    data = DataConfig(sources=sources, num_frames=5, height=32, width=32)
    opened = open_sources(data, 4, 0, 4, ignore_progress)
    first, second = (source.clips.clip(0).frames for source in opened)
    assert first.shape == (5, 32, 32, 3)
    assert not np.array_equal(first, second)
    with pytest.raises(UserError, match="divides 64"):
        open_sources(replace(data, height=48, width=48), 4, 0, 4, ignore_progress)


def test_a_run_on_several_folders_goes_on_without_naming_them_again(tiny_run, video_folder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in video_folder.iterdir():
            (tmp_path / "data" / name / file.name).write_bytes(file.read_bytes())
    sources = (SourceConfig(name="one", weight=2), SourceConfig(name="two"))
    config = replace(tiny_run, data=replace(tiny_run.data, folder=None, sources=sources))
    messages: list[str] = []
    train(
        config,
        run_dir=tmp_path / "run",
        data=tmp_path / "data",
        device="cpu",
        max_steps=1,
        on_progress=lambda progress: messages.append(progress.message or ""),
    )
    assert "6 clips: one 4 (66.7%), two 2 (33.3%)." in messages
    assert (train(config, run_dir=tmp_path / "run", device="cpu") / "model_index.json").is_file()
