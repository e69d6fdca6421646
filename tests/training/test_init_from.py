"""What a run takes from a model folder: all parts, some, or large frozen ones that stay where they are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m4v.core.errors import UserError
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.training.config import ModelsConfig, OptimConfig, PerDevice, RunConfig
from m4v.training.networks import load_networks
from m4v.training.run import train
from tests.pipelines.debug_parts import DEFAULTS, two_encoder_parts

NONE, TWO = PerDevice(cpu=0, accelerator=0), PerDevice(cpu=2, accelerator=2)


def indexed(folder: Path, class_name: str) -> None:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))


def wan(folder: Path) -> None:
    indexed(folder, "WanM4VPipeline")


def stock_wan(folder: Path) -> None:
    indexed(folder, "WanPipeline")


@pytest.mark.parametrize(("make", "kind"), [(wan, "WanM4VPipeline"), (stock_wan, "WanPipeline")])
def test_models_of_the_other_base_are_refused_by_name(
    make: Callable[[Path], None], kind: str, networks, tiny_run, tmp_path: Path
) -> None:
    make(tmp_path / "base")
    with pytest.raises(UserError, match=f"holds a {kind}.*paper-wan-480p"):
        load_networks(tmp_path / "base", networks)
    with pytest.raises(UserError, match="Wan recipe"):
        train(tiny_run, run_dir=tmp_path / "run", device="cpu", init_from=tmp_path / "base")


def test_a_lone_autoencoder_is_still_enough(networks, tmp_path: Path) -> None:
    networks.vae.save_pretrained(tmp_path / "vae")
    loaded = load_networks(tmp_path, networks)
    assert loaded.transformer is networks.transformer
    assert loaded.vae is not networks.vae


def test_parts_that_are_not_wanted_are_left(networks, tmp_path: Path) -> None:
    networks.vae.save_pretrained(tmp_path / "vae")
    networks.transformer.save_pretrained(tmp_path / "transformer")
    loaded = load_networks(tmp_path, networks, ("vae",))
    assert loaded.transformer is networks.transformer
    assert loaded.vae is not networks.vae


@pytest.fixture(scope="module")
def large_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with CLIP and T5, as converted from Pyramid-Flow, but tiny."""
    folder = tmp_path_factory.mktemp("large") / "base"
    defaults = replace(DEFAULTS, max_text_length=24)
    M4VPipeline(**two_encoder_parts(), defaults=defaults).save_pretrained(folder)
    return folder


def one_stage(config: RunConfig) -> RunConfig:
    optim = OptimConfig(lr=3e-2, warmup_steps=0)
    return replace(
        config, vae=replace(config.vae, steps=NONE), t2i=replace(config.t2i, steps=NONE),
        t2v=replace(config.t2v, steps=TWO, optim=optim),
    )  # fmt: skip


def test_a_model_with_clip_and_t5_is_trained_with_both_frozen(large_base, tiny_run, tmp_path: Path) -> None:
    config = one_stage(tiny_run)
    assert isinstance(config.models, ModelsConfig)
    export = train(config, run_dir=tmp_path / "run", device="cpu", init_from=large_base)
    before, after = M4VPipeline.from_pretrained(large_base), M4VPipeline.from_pretrained(export)
    for part in ("text_encoder", "text_encoder_2", "vae"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert all(torch.equal(old, new) for old, new in pairs)
    pairs = zip(before.transformer.parameters(), after.transformer.parameters(), strict=True)
    assert any(not torch.allclose(old.float(), new.float(), atol=1e-2) for old, new in pairs)
    assert list((tmp_path / "run" / "samples").rglob("*.mp4"))


def test_its_run_goes_on_bit_for_bit_and_repeats_no_frozen_part(large_base, tiny_run, tmp_path: Path) -> None:
    config = one_stage(tiny_run)
    whole = train(config, run_dir=tmp_path / "whole", device="cpu", init_from=large_base)
    train(config, run_dir=tmp_path / "parts", device="cpu", init_from=large_base, max_steps=1)
    parts = train(config, run_dir=tmp_path / "parts", device="cpu")
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()
    frozen = list((tmp_path / "parts" / "checkpoints").rglob("frozen*.safetensors"))
    assert sum(file.stat().st_size for file in frozen) < 1000
