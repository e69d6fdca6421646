"""The bundled toybox rewards on clips that no one trained on, and their files against faults."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from m4v.core.errors import UserError
from m4v.rewards.corruptions import CORRUPTIONS
from m4v.rewards.registry import bundled_rewards, load_reward, load_rewards
from m4v.rewards.toybox_rewards import load_toybox_clip
from m4v.toybox.clip import make_clip

NUM_CLIPS = 24


@pytest.fixture(scope="module")
def renders() -> tuple[Tensor, list[str]]:
    """Clips of the split `iid`, from another seed than those that accuracy was measured on."""
    clips = [make_clip("xs", "iid", 20_260_101, index) for index in range(NUM_CLIPS)]
    frames = torch.stack([torch.from_numpy(clip.frames) for clip in clips]).permute(0, 1, 4, 2, 3)
    return frames.float().div(127.5).sub(1.0), [clip.captions.long for clip in clips]


def test_clips_prefer_their_own_captions(renders: tuple[Tensor, list[str]]) -> None:
    frames, captions = renders
    reward = load_reward("toybox-clip")
    own = reward(frames, captions)
    others = torch.stack([reward(frames, captions[turn:] + captions[:turn]) for turn in range(1, NUM_CLIPS)])
    share = (own > others).float().mean()
    assert share > 0.97
    assert own.mean() - others.mean() > 0.4


@pytest.mark.parametrize(
    ("said", "false"),
    [
        ("a red ball rolls to the left", "a blue ball rolls to the left"),
        ("a red ball rolls to the left", "a red cube slides to the left"),
        ("a red ball rolls to the left", "a red ball rolls to the right"),
    ],
)
def test_one_false_word_costs_reward(said: str, false: str) -> None:
    from m4v.toybox.captions import parse
    from m4v.toybox.renderer import render
    from m4v.toybox.scene import scene_from_facts

    scene = scene_from_facts(parse(said), 5, "xs")
    frames = torch.from_numpy(render(scene).frames).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)[None]
    reward = load_reward("toybox-clip")
    assert reward(frames, [said]) > reward(frames, [false]) + 0.1


@pytest.mark.parametrize(
    ("name", "least"), [("blur", 0.9), ("noise", 0.9), ("warp", 0.9), ("ghost", 0.9), ("blocks", 0.75)]
)
def test_damaged_clips_score_lower(renders: tuple[Tensor, list[str]], name: str, least: float) -> None:
    """Share of pairs of a clean and a damaged clip that are ordered rightly."""
    frames, captions = renders
    reward = load_reward("toybox-quality")
    good = reward(frames, captions)
    bad = reward(CORRUPTIONS[name](frames, torch.Generator().manual_seed(0)), captions)
    assert (good[:, None] > bad).float().mean() > least


@pytest.mark.parametrize("spec", ["toybox-clip", "toybox-quality"])
@pytest.mark.parametrize("shape", [(1, 1, 3, 64, 64), (2, 5, 3, 16, 16), (1, 9, 3, 96, 128)])
def test_gradients_reach_pixels_of_any_length_and_size(spec: str, shape: tuple[int, ...]) -> None:
    frames = (0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    reward = load_reward(spec)
    values = reward(frames, ["a red ball"] * shape[0])
    assert values.shape == (shape[0],)
    values.sum().backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0
    assert all(not value.requires_grad for value in reward.network.parameters())  # type: ignore[attr-defined]


def test_the_bundled_files_are_small() -> None:
    sizes = [file.stat().st_size for file in bundled_rewards().rglob("*.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 600_000


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(bundled_rewards() / "toybox-clip", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "log_scale"}, folder / "model.safetensors")
    with pytest.raises(UserError, match="1 missing: log_scale"):
        load_toybox_clip(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no file .*model\.safetensors"):
        load_toybox_clip(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        load_toybox_clip(folder)


def test_unknown_rewards_are_refused() -> None:
    with pytest.raises(UserError, match="no reward 'aesthetic'; expected one of toybox-clip"):
        load_reward("aesthetic")


def test_rewards_of_one_name_are_numbered() -> None:
    names = [reward.name for reward in load_rewards(["toybox-clip", "toybox-quality", "toybox-clip"])]
    assert names == ["toybox-clip", "toybox-quality", "toybox-clip-2"]
