"""Studies of training: arms differ in one thing, take equal steps, and are made once."""

import json

import pytest

from m4v.core.errors import UserError
from m4v.studies.measures import unit_frames
from m4v.studies.training_questions import make_plan, questions
from m4v.studies.training_study import markdown, run_study, summarise


@pytest.mark.parametrize("question", ["conversion", "corruption", "mixing"])
@pytest.mark.parametrize("size", ["debug", "small", "gpu"])
def test_arms_take_equally_many_steps_and_see_the_same_clips(question, size, tmp_path):
    compared = [trial for trial in make_plan(question, size, tmp_path, 0.5).trials if trial.arm]
    assert len({trial.arm for trial in compared}) >= 2
    assert len({trial.num_steps("cuda") for trial in compared}) == 1
    assert len({(str(trial.config.data), str(trial.config.t2v.batch_size)) for trial in compared}) == 1


def test_every_rung_of_the_ladder_starts_from_the_one_before(tmp_path):
    trials = make_plan("ladder", "gpu", tmp_path).trials
    assert [trial.arm for trial in trials] == ["images", "short videos", "long videos", "quality", "reward"]
    assert [trial.start for trial in trials[1:]] == [trial.name for trial in trials[:-1]]
    assert [trial.config.data.num_frames for trial in trials[1:3]] == [9, 17]


def test_unknown_questions_and_sizes_are_named(tmp_path):
    with pytest.raises(UserError, match="conversion, corruption, mixing, ladder"):
        make_plan("colour", "debug", tmp_path)


def test_units_share_out_all_frames():
    assert unit_frames(17, 8) == [slice(0, 1), slice(1, 9), slice(9, 17)]


def test_the_summary_is_over_the_seeds_of_an_arm():
    trial = {"arm": "a", "steps": 4, "seconds": 1.0, "held_out": {"loss": 1.0}}
    arms = summarise({"one": trial, "two": {**trial, "held_out": {"loss": 3.0}}})
    assert arms["a"]["held_out_loss"] == {"mean": 2.0, "low": 1.0, "high": 3.0}
    table = markdown({"arms": arms, "title": "?", "size": "debug", "device": "cpu", "torch": "2"})
    assert "| a | 2 | 4 | 1 | 2.0000 (1.0000 to 3.0000) |" in table


@pytest.mark.slow
@pytest.mark.parametrize("question", list(questions()))
def test_every_question_runs_and_a_second_call_only_reads(question, tmp_path, monkeypatch):
    results = run_study(question, "debug", tmp_path, device="cpu")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.md").read_text().count("\n| ") >= 4
    monkeypatch.setattr("m4v.studies.trials.train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert run_study(question, "debug", tmp_path, device="cpu") == results
