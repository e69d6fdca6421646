"""The reward stage as a run: its log, its guard, its resumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m4v.checkpoints.run_folder import RunFolder
from m4v.recipes.debug import debug
from m4v.recipes.toybox_reward import reward as toybox_reward
from m4v.toybox.renderer import render
from m4v.toybox.splits import evaluation_prompts
from m4v.training import reward_stage, stages
from m4v.training.config import RunConfig
from m4v.training.optim_config import OptimConfig, PerDevice
from m4v.training.reward_config import RewardGuardConfig, RewardStageConfig
from m4v.training.reward_guard import GuardLook
from m4v.training.reward_oracle import toybox_agreement, toybox_prompts
from m4v.training.run import train


def both(count: int) -> PerDevice:
    return PerDevice(cpu=count, accelerator=count)


def run_config(steps: int = 3, every: int = 1, **guard: Any) -> RunConfig:
    """The debug recipe at a quarter of its picture: one step of the autoencoder, then reward learning."""
    base = debug()
    return replace(
        base,
        data=replace(base.data, num_clips=both(4), num_frames=5, height=32, width=32),
        vae=replace(base.vae, steps=both(1)),
        t2i=replace(base.t2i, steps=both(0)),
        t2v=replace(base.t2v, steps=both(0)),
        reward=RewardStageConfig(
            steps=both(steps),
            batch_size=both(4),
            rows=both(1),
            optim=OptimConfig(lr=1e-4, warmup_steps=0),
            guard=RewardGuardConfig(num_samples=both(1), **guard),
        ),
        samples=replace(base.samples, prompts=("a red ball",), every_steps=both(every)),
    )


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_rewards_and_oracles_are_logged_from_before_the_first_step_on(tmp_path: Path) -> None:
    train(run_config(2), run_dir=tmp_path, device="cpu")
    found = [line for line in lines(tmp_path) if line["stage"] == "reward"]
    looks = [line for line in found if "sampled/toybox-clip" in line]
    steps = [line for line in found if "reward/toybox-clip" in line]
    assert [line["step"] for line in looks] == [1, 2, 3]
    assert [line["step"] for line in steps] == [2, 3]
    assert {"oracle/colour", "oracle/object", "oracle/motion", "sampled/toybox-quality"} <= looks[0].keys()
    assert {"reward/toybox-quality", "loss/reward"} <= steps[0].keys()
    assert len({line["guard/oracle_at_start"] for line in looks}) == 1


def planted(monkeypatch: pytest.MonkeyPatch, rewards: list[float], oracles: list[float]) -> None:
    """Let the guard's judges say what they would of a model that learns to please its rewards."""
    reward_values, oracle_values = iter(rewards), iter(oracles)
    current: list[float] = []

    def mean_reward(reward: Any, *_: Any) -> float:
        if reward.name == "toybox-clip":
            current.append(next(reward_values))
        return current[-1]

    monkeypatch.setattr(reward_stage, "make_clips", lambda *_: [])
    monkeypatch.setattr(stages, "write_samples", lambda *_, **__: None)
    monkeypatch.setattr(reward_stage, "mean_reward", mean_reward)
    monkeypatch.setattr(reward_stage, "toybox_agreement", lambda *_: {"colour": next(oracle_values)})


def test_a_planted_hack_warns_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted(monkeypatch, [0.3, 0.5, 0.7, 0.8], [0.9, 0.9, 0.5, 0.4])
    train(run_config(3), run_dir=tmp_path, device="cpu")
    said = [record.message for record in caplog.records if "independent oracle fell" in record.message]
    assert len(said) == 2
    assert "from 0.300 to 0.700" in said[0]
    assert "from 0.900 to 0.500" in said[0]
    assert lines(tmp_path)[-1]["step"] == 4


def test_a_planted_hack_stops_the_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, [0.3, 0.5, 0.7, 0.8], [0.9, 0.9, 0.5, 0.4])
    messages: list[str] = []
    train(
        run_config(3, on_hacking="stop"),
        run_dir=tmp_path,
        device="cpu",
        on_progress=lambda progress: messages.append(progress.message),
    )
    assert any("the reward guard saw reward hacking at step 2 of 3" in message for message in messages)
    assert RunFolder(tmp_path).latest_step() is not None


@pytest.mark.parametrize(
    ("rewards", "oracles"),
    [([0.3, 0.5], [0.9, 0.8]), ([0.3, 0.2], [0.9, 0.1]), ([0.3, 0.9], [0.5, 0.9])],
    ids=["within the margin", "rewards fell too", "both rose"],
)
def test_honest_runs_are_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rewards: list[float],
    oracles: list[float],
) -> None:
    planted(monkeypatch, rewards, oracles)
    train(run_config(1), run_dir=tmp_path, device="cpu")
    assert not [record for record in caplog.records if "oracle fell" in record.message]


def test_a_resumed_stage_remembers_where_it_began_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, [0.3, 0.4, 0.5, 0.6] * 2, [0.9, 0.8, 0.8, 0.8] * 2)
    train(run_config(3), run_dir=tmp_path / "whole", device="cpu")
    train(run_config(3), run_dir=tmp_path / "parts", device="cpu", max_steps=2)
    train(run_config(3), run_dir=tmp_path / "parts", device="cpu")
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert parts[-1]["guard/reward_at_start"] == whole[-1]["guard/reward_at_start"] == 0.3
    losses = [[line["loss"] for line in run if "loss/reward" in line] for run in (whole, parts)]
    assert losses[0] == losses[1]


def test_a_look_compares_with_the_start_of_the_stage() -> None:
    values = {"sampled/one": 0.2, "sampled/two": 0.4, "oracle/colour": 1.0, "oracle/motion": 0.5}
    start = GuardLook.from_values(values, {"one": 1.0, "two": 2.0}, {})
    assert (start.reward, start.oracle) == (pytest.approx(0.5), pytest.approx(0.75))
    assert not start.is_hacked(0.01)
    later = GuardLook.from_values(
        values | {"sampled/one": 0.9, "oracle/colour": 0.5}, {"one": 1.0, "two": 2.0}, start.to_log()
    )
    assert later.is_hacked(0.2)
    assert not later.is_hacked(0.3)


def test_rewards_of_another_world_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = run_config(1)
    config = replace(
        config,
        data=replace(config.data, tier="s"),
        reward=replace(config.reward, guard=RewardGuardConfig(num_samples=both(0))),
    )
    train(config, run_dir=tmp_path, device="cpu")
    said = [record.message for record in caplog.records if "means little on the toybox tier s" in record.message]
    assert len(said) == 2


def test_the_oracle_agrees_with_renders_and_not_with_others() -> None:
    prompts = evaluation_prompts("xs").seen[:12]
    clips = [render(prompt.scene).frames for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    right = toybox_agreement(clips, texts, "xs")
    wrong = toybox_agreement(clips[6:] + clips[:6], texts, "xs")
    assert set(right) == {"colour", "object", "motion"}
    assert min(right.values()) > 0.9
    assert max(wrong.values()) < 0.7
    assert toybox_agreement(clips[:1], ["hello"], "xs") == {}


def test_guard_prompts_show_seen_and_held_out_combinations() -> None:
    prompts = toybox_prompts("xs", 8)
    lists = evaluation_prompts("xs")
    assert len(set(prompts)) == 8
    assert sum(prompt in {item.text for item in lists.seen} for prompt in prompts) == 4
    assert sum(prompt in {item.text for item in lists.held_out} for prompt in prompts) == 4


def test_the_recipe_is_the_papers_stage_at_toybox_size() -> None:
    config = toybox_reward()
    assert [name for name, _ in config.stages("cpu")] == ["reward"]
    assert config.data.tier == "xs"
    assert (config.reward.weight, config.reward.last_units) == (0.1, 8)
