"""A run on one's own clips says what the autoencoder loses, trains it where needed, and leaves a whole model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m4v.checkpoints.run_folder import RunFolder
from m4v.checkpoints.weights import load_tensors
from m4v.cli.opening import add_loras
from m4v.core.errors import UserError
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.training.config import PerDevice, RunConfig
from m4v.training.exporting import export_model
from m4v.training.lora_config import LoraConfig
from m4v.training.networks import Networks
from m4v.training.run import train

SKIPPED, TWO = PerDevice(cpu=0, accelerator=0), PerDevice(cpu=2, accelerator=2)
DENOISER, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae"))


@pytest.fixture
def base(networks: Networks, tiny_run: RunConfig, tmp_path: Path) -> Path:
    return export_model(tmp_path / "base", tiny_run, networks, {})


@pytest.fixture
def chain(tiny_run: RunConfig) -> RunConfig:
    """Autoencoder, then text-to-video, two steps each."""
    return replace(
        tiny_run,
        vae=replace(tiny_run.vae, steps=TWO),
        t2i=replace(tiny_run.t2i, steps=SKIPPED),
        t2v=replace(tiny_run.t2v, steps=TWO),
        samples=replace(tiny_run.samples, prompts=("a square",)),
    )


def run(config: RunConfig, run_dir: Path, base: Path | None, **options) -> list[str]:
    said: list[str] = []
    train(
        config, run_dir=run_dir, device="cpu", init_from=base, on_progress=lambda p: said.append(p.message), **options
    )
    return [line for line in said if "round trips" in line]


def is_same(one: Path, other: Path, file: str) -> bool:
    tensors, others = load_tensors(one / file), load_tensors(other / file)
    return all(torch.equal(value, others[name]) for name, value in tensors.items())


def test_poor_round_trips_are_warned_of_with_the_remedy(chain, base, tmp_path):
    (line,) = run(replace(chain, vae=replace(chain.vae, steps=SKIPPED)), tmp_path / "run", base)
    assert "Warning: below 22 dB" in line
    assert "--vae.steps" in line


def test_good_round_trips_skip_the_autoencoder_and_poor_ones_do_not(chain, base, tmp_path):
    for good_psnr, is_kept in ((0.1, True), (90.0, False), (0.0, False)):
        run_dir = tmp_path / str(good_psnr)
        (line,) = run(replace(chain, vae=replace(chain.vae, good_psnr=good_psnr)), run_dir, base)
        assert ("needs no training" in line) == is_kept
        assert is_same(base, run_dir / "export", VAE) == is_kept


def test_the_autoencoder_stage_alone_leaves_a_whole_model_to_start_from(chain, base, tmp_path):
    run(replace(chain, t2v=replace(chain.t2v, steps=SKIPPED)), tmp_path / "first", base)
    export = tmp_path / "first" / "export"
    assert is_same(base, export, DENOISER)
    assert not is_same(base, export, VAE)
    measured, former = (CausalVideoVAE.from_pretrained(folder / "vae").latent_statistics for folder in (export, base))
    assert measured != former
    run(replace(chain, vae=replace(chain.vae, steps=SKIPPED)), tmp_path / "second", tmp_path / "first")
    assert is_same(export, tmp_path / "second" / "export", VAE)
    assert CausalVideoVAE.from_pretrained(tmp_path / "second" / "export" / "vae").latent_statistics == measured


def test_a_run_without_a_model_to_start_from_exports_the_autoencoder_only(chain, tmp_path):
    assert not run(replace(chain, t2v=replace(chain.t2v, steps=SKIPPED)), tmp_path / "run", None)
    assert sorted(path.name for path in (tmp_path / "run" / "export").iterdir()) == ["vae"]


@pytest.mark.parametrize("rank", [0, 2])
def test_stopping_in_either_stage_and_resuming_changes_no_bit(chain, base, tmp_path, rank):
    config = replace(chain, lora=LoraConfig(rank=rank, lr=1e-2))
    run(config, tmp_path / "whole", base)
    for steps in (1, 2, None):  # in the autoencoder, in text-to-video, to the end
        run(config, tmp_path / "split", base, max_steps=steps)
        assert (tmp_path / "split" / "export" / "model_index.json").is_file()
    loaded = []
    for name in ("whole", "split"):
        folder = RunFolder(tmp_path / name)
        loaded.append(folder.load_step(folder.latest_step())[0])
        assert not is_same(base, folder.export, VAE)
    expected, found = loaded
    assert expected.keys() == found.keys()
    for part, tensors in expected.items():
        for name, value in tensors.items():
            assert torch.equal(value, found[part][name]), f"{part} {name}"
    for file in (DENOISER, VAE):
        assert is_same(tmp_path / "whole" / "export", tmp_path / "split" / "export", file)
    whole, split = (
        CausalVideoVAE.from_pretrained(tmp_path / name / "export" / "vae").latent_statistics
        for name in ("whole", "split")
    )
    assert whole == split


def test_adapters_bring_the_autoencoder_that_they_were_trained_with(chain, base, tmp_path):
    run(replace(chain, lora=LoraConfig(rank=2)), tmp_path / "run", base)
    pipeline = M4VPipeline.from_pretrained(str(base))
    add_loras(pipeline, [tmp_path / "run" / "lora"])
    merged = M4VPipeline.from_pretrained(str(tmp_path / "run" / "export")).vae
    assert pipeline.vae.latent_statistics == merged.latent_statistics
    for name, value in pipeline.vae.state_dict().items():
        assert (value - merged.state_dict()[name]).abs().max() <= 0.01 * value.abs().max()  # the merged model is bf16


@pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 5.0}, {"targets": ("to_q",)}])
def test_adapters_of_another_shape_or_scale_are_refused_on_resuming(chain, base, tmp_path, change):
    config = replace(chain, vae=replace(chain.vae, steps=SKIPPED), lora=LoraConfig(rank=2, alpha=3.0))
    run(config, tmp_path / "run", base, max_steps=1)
    with pytest.raises(UserError, match=rf"lora\.{next(iter(change))}"):
        run(replace(config, lora=replace(config.lora, **change)), tmp_path / "run", base)
