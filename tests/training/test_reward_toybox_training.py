"""Training of the toybox reward models, cut down to seconds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.rewards.corruptions import CORRUPTIONS
from m4v.rewards.toybox_rewards import load_toybox_clip, load_toybox_quality
from m4v.training.reward_toybox_training import ToyboxRewardTraining, area_under_curve, train_toybox_rewards


def test_both_models_are_trained_measured_and_loadable(tmp_path: Path) -> None:
    vae = CausalVideoVAE.build(CausalVideoVAEConfig.debug()).eval()
    config = ToyboxRewardTraining(
        num_clips=8, num_test_clips=4, num_coded=4, clip_steps=2, quality_steps=2, batch_size=4
    )
    facts = train_toybox_rewards(tmp_path, vae, config)
    assert {"retrieval@1", "colour", "object", "motion"} <= facts["toybox-clip"].keys()
    assert {f"auc {name}" for name in CORRUPTIONS} | {"auc latents", "auc mean"} <= facts["toybox-quality"].keys()
    assert all(0 <= value <= 1 for table in facts.values() for name, value in table.items() if name != "clips")
    clip, quality = load_toybox_clip(tmp_path / "toybox-clip"), load_toybox_quality(tmp_path / "toybox-quality")
    assert (clip.tier, quality.tier) == ("xs", "xs")
    frames = torch.zeros(1, 5, 3, 64, 64)
    assert torch.isfinite(clip(frames, ["a red ball"]) + quality(frames, [""])).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_clips_and_keeps_their_range(name: str) -> None:
    frames = torch.rand(4, 5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = frames.clone()
    made = CORRUPTIONS[name](frames, torch.Generator().manual_seed(1))
    assert made.shape == frames.shape
    assert not torch.equal(made, frames)
    assert made.abs().max() <= 1
    assert torch.equal(frames, before)


@pytest.mark.parametrize(
    ("good", "bad", "area"),
    [([2.0, 3.0], [0.0, 1.0], 1.0), ([0.0, 2.0], [1.0], 0.5), ([1.0], [1.0], 0.5), ([0.0], [1.0], 0.0)],
)
def test_the_area_under_the_curve_counts_ordered_pairs(good: list[float], bad: list[float], area: float) -> None:
    values: list[Tensor] = [torch.tensor(good), torch.tensor(bad)]
    assert area_under_curve(*values) == pytest.approx(area)
