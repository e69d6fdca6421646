"""Models that a run cannot start from are refused by what they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from m4v.core.errors import UserError
from m4v.training.networks import load_networks
from m4v.training.run import train


def indexed(folder: Path, class_name: str) -> None:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))


def pyramid_flow(folder: Path) -> None:
    indexed(folder, "M4VPipeline")
    (folder / "text_encoder_2").mkdir()


def wan(folder: Path) -> None:
    indexed(folder, "WanM4VPipeline")


def stock_wan(folder: Path) -> None:
    indexed(folder, "WanPipeline")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pyramid_flow, "two text encoders of Pyramid-Flow"),
        (wan, "is a WanM4VPipeline"),
        (stock_wan, "is a WanPipeline"),
    ],
)
def test_large_bases_are_refused_by_name(
    make: Callable[[Path], None], reason: str, networks, tiny_run, tmp_path: Path
) -> None:
    make(tmp_path / "base")
    with pytest.raises(UserError, match=f"{reason}.*not here yet"):
        load_networks(tmp_path / "base", networks)
    with pytest.raises(UserError, match="not here yet"):
        train(tiny_run, run_dir=tmp_path / "run", device="cpu", init_from=tmp_path / "base")


def test_a_lone_autoencoder_is_still_enough(networks, tmp_path: Path) -> None:
    networks.vae.save_pretrained(tmp_path / "vae")
    loaded = load_networks(tmp_path, networks)
    assert loaded.transformer is networks.transformer
    assert loaded.vae is not networks.vae
