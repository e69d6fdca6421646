"""The numbers that the paper prints (Appendix C.2, D), and the toybox ladder that mirrors them."""

import pytest

from m4v.recipes.registry import get_recipe, list_recipes
from m4v.recipes.toybox_stages import PAPER_RATE_FACTOR

ALL = ("images", "webvid-10m", "open-sora-plan-1m", "openvid-1m")
SHARP = ("images", "open-sora-plan-1m", "openvid-1m")
TUNING = (*SHARP, "synthetic")

# name, stage, rate, steps, GPUs, frames, rows, columns, sources; a batch is 4 items (pyramid) or 1 clip (Wan) per GPU.
PAPER = [
    ("paper-convert-384p", "t2v", 1e-4, 20_000, 64, 57, 384, 640, ALL),
    ("paper-t2v-57f-384p", "t2v", 1e-4, 40_000, 64, 57, 384, 640, ALL),
    ("paper-t2v-121f-384p", "t2v", 1e-4, 60_000, 64, 121, 384, 640, ALL),
    ("paper-t2v-121f-768p", "t2v", 5e-5, 20_000, 128, 121, 768, 1280, SHARP),
    ("paper-t2v-241f-768p", "t2v", 5e-5, 20_000, 128, 241, 768, 1280, SHARP),
    ("paper-quality-768p", "t2v", 5e-5, 30_000, 128, 241, 768, 1280, TUNING),
    ("paper-reward-768p", "reward", 1e-5, 10_000, 64, 241, 768, 1280, TUNING),
    ("paper-wan-480p", "clips", 1e-4, 60_000, 128, 81, 480, 832, ALL),
    ("paper-wan-720p", "clips", 5e-5, 35_000, 128, 81, 720, 1280, SHARP),
    ("paper-ablation-121f-384p", "t2v", 1e-4, 20_000, 64, 121, 384, 640, ALL),
]


@pytest.mark.parametrize(("name", "stage", "lr", "steps", "gpus", "frames", "rows", "columns", "sources"), PAPER)
def test_a_stage_has_the_numbers_of_the_paper(name, stage, lr, steps, gpus, frames, rows, columns, sources) -> None:
    config = get_recipe(name)
    assert config.stages("cuda") == ((stage, steps),)
    settings = config.stage(stage)
    assert settings.optim.lr == lr
    assert settings.optim.hold_share == 1.0
    assert settings.batch_size.accelerator == gpus * (1 if stage == "clips" else 4)
    assert (settings.images_per_window, settings.videos_per_window) == (1, 8)
    assert not settings.train_text
    assert (config.data.num_frames, config.data.height, config.data.width) == (frames, rows, columns)
    assert tuple(source.name for source in config.data.sources) == sources


def test_reward_learning_weighs_a_tenth_and_looks_at_the_last_eight_units_with_two_rewards() -> None:
    reward = get_recipe("paper-reward-768p").reward
    assert (reward.weight, reward.last_units, len(reward.rewards)) == (0.1, 8, 2)


def test_history_is_corrupted_linearly_up_to_a_third() -> None:
    stage = get_recipe("paper-t2v-57f-384p").t2v
    assert (stage.corruption, stage.corruption_rule, stage.columns) == (pytest.approx(1 / 3), "linear", (1, 2, 1))


def test_the_attention_base_has_attention_everywhere_and_the_rest_scans() -> None:
    for family in ("paper", "toybox"):
        suffix = "-384p" if family == "paper" else ""
        base = get_recipe(f"{family}-attention-base{suffix}")
        assert set(base.models.denoiser.kinds) == {"attention"}
        assert "transformer" not in base.init_parts
        assert set(get_recipe(f"{family}-convert{suffix}").models.denoiser.kinds) == {"mm_dim"}


def test_synthetic_videos_are_about_80_000_beside_two_millions() -> None:
    weights = {source.name: source.weight for source in get_recipe("paper-quality-768p").data.sources}
    assert weights["synthetic"] / (weights["openvid-1m"] + weights["open-sora-plan-1m"]) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("toybox", "paper"),
    [
        ("toybox-convert", "paper-convert-384p"),
        ("toybox-t2v-short", "paper-t2v-57f-384p"),
        ("toybox-t2v-long", "paper-t2v-121f-384p"),
        ("toybox-t2v-large", "paper-t2v-121f-768p"),
        ("toybox-t2v-large-long", "paper-t2v-241f-768p"),
        ("toybox-quality", "paper-quality-768p"),
        ("toybox-reward", "paper-reward-768p"),
        ("toybox-wan-short", "paper-wan-480p"),
        ("toybox-wan-long", "paper-wan-720p"),
        ("toybox-ablation", "paper-ablation-121f-384p"),
    ],
)
def test_the_toybox_ladder_keeps_the_papers_proportions(toybox: str, paper: str) -> None:
    small, large = get_recipe(toybox), get_recipe(paper)
    (stage, _), mine = large.stages("cuda")[0], small.stages("cuda")[-1][0]
    assert mine == stage
    ours, theirs = small.stage(stage), large.stage(stage)
    assert ours.optim.lr == pytest.approx(theirs.optim.lr * PAPER_RATE_FACTOR)
    assert (ours.images_per_window, ours.videos_per_window) == (theirs.images_per_window, theirs.videos_per_window)


def test_recipes_are_listed_in_the_order_of_training() -> None:
    names = [name for name in list_recipes() if name.startswith("paper-")]
    assert names[0] == "paper-attention-base-384p"
    expected = [name for name, *_ in PAPER]
    assert [name for name in names if name in expected] == expected
