"""Processes that make one video together make the video that one makes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from m4v.checkpoints.bundled import default_bundled_model
from m4v.checkpoints.resolve import resolve_model
from m4v.cli.main import main
from m4v.core.errors import UserError
from m4v.media.images import read_image
from m4v.pipelines.context_parallel import ProcessPlace, joined, share_denoiser
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.ranks import on_ranks


def latents_of(shared: bool) -> torch.Tensor:
    """Two units of the bundled model, guided."""
    pipeline = M4VPipeline.from_pretrained(str(resolve_model(default_bundled_model())))
    if shared:
        share_denoiser(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        "a red ball jumps", num_frames=9, num_inference_steps=1, guidance_scale=4.0, seed=3, output_type="latent"
    )
    return made.frames


@pytest.mark.dist
def test_two_processes_make_the_video_that_one_makes() -> None:
    expected = latents_of(shared=False)
    first, second = on_ranks(latents_of, 2, True)
    assert torch.equal(first, second)
    assert (first - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.dist
def test_torchrun_writes_one_video_which_is_that_of_one_process(tmp_path: Path) -> None:
    request = [
        "generate",
        "a red ball jumps",
        "--frames",
        "9",
        "--steps",
        "1",
        "--device",
        "cpu",
        "--contact-sheet",
        "--out",
    ]
    assert main([*request, str(tmp_path / "one.mp4")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "m4v.cli.main"]
    done = subprocess.run(
        [*launcher, *request, str(tmp_path / "two.mp4")], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip().splitlines() == [str(tmp_path / "two.mp4")]
    assert done.stderr.count("Making 1 video") == 1
    # Pictures, not the videos: a codec may make a great difference of a small one.
    one, two = (read_image(tmp_path / name).astype(int) for name in ("one.png", "two.png"))
    assert np.abs(one - two).max() <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "one.png", "two.mp4", "two.png"]


def test_alone_nothing_is_joined() -> None:
    assert ProcessPlace.from_environment() == ProcessPlace(rank=0, size=1, local_rank=0)
    with joined(ProcessPlace(0, 1, 0), "mps"):
        assert not torch.distributed.is_initialized()


def test_devices_that_cannot_work_together_are_refused() -> None:
    with (
        pytest.raises(UserError, match="2 processes cannot make a video together on mps"),
        joined(ProcessPlace(0, 2, 0), "mps"),
    ):
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match="Process 1 of this machine finds 1 GPUs"),
        joined(ProcessPlace(1, 2, 1), "cuda"),
    ):
        pass


def test_compiling_for_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert main(["generate", "a red ball jumps", "--compile"]) == 2
    assert "--compile cannot be combined with several processes" in capsys.readouterr().err
