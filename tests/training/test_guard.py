"""The guard against loss spikes: what it finds, what it does, and that resuming changes nothing."""

import json
import logging

import numpy as np
import pytest
import torch

from m4v.checkpoints.weights import load_tensors
from m4v.core.errors import UserError
from m4v.models.text.encoder import tokenize_prompts
from m4v.models.text.tokenizer import build_tokenizer
from m4v.training.guard import Guard, LossSpike, batch_describer
from m4v.training.guard_config import GuardConfig


def make(tmp_path, **settings):
    config = GuardConfig(**{"spike_factor": 10.0, "window": 16, **settings})
    return Guard(config, torch.device("cpu"), folder=tmp_path, stage="t2v")


def batch(step):
    return {"latents": torch.full((2, 3), float(step)), "clips": torch.tensor([step, step + 1])}


def feed(guard, losses, kind="video/level-0", start=0):
    for step, loss in enumerate(losses, start=start):
        guard.note(kind, torch.tensor(float(loss)), step)
    return start + len(losses)


def usual(count, seed=0):
    return 1.0 + 0.1 * np.random.default_rng(seed).standard_normal(count)


def test_usual_losses_are_no_spikes(tmp_path):
    guard = make(tmp_path)
    feed(guard, usual(2000))
    assert guard.report(batch, 0) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_spike_is_said_and_its_batch_saved(tmp_path, caplog):
    guard = make(tmp_path)
    step = feed(guard, usual(40))
    step = feed(guard, [9.0], start=step)
    feed(guard, usual(5, seed=1), start=step)
    with caplog.at_level(logging.WARNING):
        assert guard.report(batch, 100) == 1
    assert "step 140" in caplog.text
    facts = json.loads((tmp_path / "spike-step-140.json").read_text())
    assert (facts["step"], facts["stage_step"], facts["kind"], facts["loss"]) == (140, 40, "video/level-0", 9.0)
    assert 1.0 < facts["limit"] < 4.0
    assert torch.equal(load_tensors(tmp_path / "spike-step-140.safetensors")["latents"], batch(40)["latents"])
    caplog.clear()
    guard.report(batch, 100)
    assert not caplog.records, "the same spike is said once"


def test_each_kind_has_its_own_usual_range(tmp_path):
    guard = make(tmp_path)
    feed(guard, usual(40), kind="image/level-0")
    feed(guard, 50 * usual(40), kind="video/level-2")
    assert guard.report(batch, 0) == 0
    feed(guard, [50.0], kind="video/level-2", start=40)
    assert guard.report(batch, 0) == 0
    feed(guard, [50.0], kind="image/level-0", start=40)
    assert guard.report(batch, 0) == 1


def test_nothing_is_judged_before_a_window_is_full(tmp_path):
    guard = make(tmp_path)
    feed(guard, [1.0] * 8 + [1000.0])
    assert guard.report(batch, 0) == 0


def test_a_lasting_change_becomes_usual(tmp_path):
    guard = make(tmp_path, most_saved=1)
    step = feed(guard, usual(40))
    step = feed(guard, 5 * usual(40), start=step)
    before = guard.report(batch, 0)
    feed(guard, 5 * usual(40, seed=2), start=step)
    assert guard.report(batch, 0) == before
    assert len(list(tmp_path.glob("spike-*.safetensors"))) == 1


def test_a_constant_loss_may_move_a_little(tmp_path):
    guard = make(tmp_path)
    feed(guard, [1.0] * 40 + [1.05])
    assert guard.report(batch, 0) == 0


def test_stop_names_the_saved_batch(tmp_path):
    guard = make(tmp_path, action="stop")
    feed(guard, [*usual(40), 9.0])
    with pytest.raises(LossSpike, match=r"spike-step-40\.safetensors"):
        guard.report(batch, 0)


def _optimizer():
    parameter = torch.nn.Parameter(torch.ones(3))
    return parameter, torch.optim.AdamW([parameter], lr=0.1, fused=True)


def test_skip_leaves_weights_moments_and_step_count_as_they_were(tmp_path):
    guard = make(tmp_path, action="skip")
    parameter, optimizer = _optimizer()
    for step, loss in enumerate([*usual(20), 9.0, 1.0]):
        parameter.grad = torch.full((3,), loss, dtype=torch.float32)
        guard.note("video/level-0", torch.tensor(loss), step)
        before = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}
        guard.allow_update(optimizer)
        optimizer.step()
        is_same = torch.equal(before[0], parameter.detach())
        assert is_same == (step == 20), step
        if step == 20:
            for key, value in before[1].items():
                assert torch.equal(value, optimizer.state[parameter][key]), key


def test_a_resumed_guard_judges_as_one_that_was_never_stopped(tmp_path):
    losses = [*usual(30), 9.0, *usual(10), 7.0]
    whole = make(tmp_path / "whole")
    feed(whole, losses)
    first = make(tmp_path / "split")
    feed(first, losses[:25])
    second = make(tmp_path / "split")
    second.load(json.loads(json.dumps(first.state())))
    feed(second, losses[25:], start=25)
    assert second.state() == whole.state()
    assert second.report(batch, 0) == whole.report(batch, 0) == 2


def test_off_costs_nothing(tmp_path):
    guard = make(tmp_path, spike_factor=0.0)
    feed(guard, [1.0] * 40 + [1000.0])
    assert guard.state()["kinds"] == {}
    assert guard.report(batch, 0) == 0


def test_a_described_batch_names_clips_and_captions():
    tokenizer = build_tokenizer(["a", "red", "ball"])
    ids, mask = tokenize_prompts(tokenizer, ["a red ball", ""], 8)
    facts = batch_describer(tokenizer)({"token_ids": ids, "token_mask": mask, "clips": torch.tensor([4, 7])})
    assert facts["clips"] == [4, 7]
    assert facts["captions"] == ["a red ball", ""]
    assert facts["tensors"]["token_ids"] == list(ids.shape)


def test_bad_settings_are_refused():
    for settings in ({"spike_factor": -1.0}, {"window": 4}, {"most_saved": -1}):
        with pytest.raises(UserError, match=next(iter(settings))):
            GuardConfig(**settings)
