"""Run folders: a checkpoint is complete or absent, whatever interrupts its writing."""

import shutil

import pytest
import torch

from m4v.checkpoints import run_folder as module
from m4v.checkpoints.run_folder import COMPLETE, RunFolder, load_step_folder
from m4v.core.errors import UserError


def states(value: float):
    return {"transformer": {"w": torch.full((3,), value)}, "optimizer": {"m": torch.zeros(2), "step": torch.tensor(7)}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_round_trip(run):
    metadata = {"step": 10, "config": {"lr": 0.1, "columns": [1, 2, 1]}, "note": None}
    assert run.save_step(10, states(1.0), metadata) == run.path / "checkpoints" / "step-10"
    loaded, facts = run.load_step(10)
    assert facts == metadata
    assert loaded.keys() == {"transformer", "optimizer"}
    assert torch.equal(loaded["transformer"]["w"], torch.ones(3))
    assert loaded["optimizer"]["step"].item() == 7
    assert load_step_folder(run.step_path(10))[1] == metadata


def test_steps_are_ordered_by_number_and_an_empty_run_has_none(run):
    assert run.latest_step() is None
    for step in (9, 100, 20):
        run.save_step(step, states(step), {})
    assert run.steps() == [9, 20, 100]
    assert run.latest_step() == 100


def test_saving_a_step_again_replaces_it(run):
    run.save_step(1, states(1.0), {})
    run.save_step(1, states(2.0), {"second": True})
    loaded, metadata = run.load_step(1)
    assert loaded["transformer"]["w"][0] == 2.0
    assert metadata == {"second": True}


@pytest.mark.parametrize("stage", ["first_file", "second_file", "hash"])
def test_an_interruption_leaves_the_earlier_checkpoint_and_no_rubbish(run, monkeypatch, stage):
    run.save_step(1, states(1.0), {})
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == (2 if stage == "second_file" else 1):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    name = "file_sha256" if stage == "hash" else "save_tensors"
    original = getattr(module, name)
    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.save_step(2, states(2.0), {})
    assert run.latest_step() == 1
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["step-1"]


def test_a_kill_without_cleaning_up_is_absent_and_swept_by_the_next_save(run):
    run.save_step(1, states(1.0), {})
    stale = run.checkpoints / ".step-2-0123abcd"
    shutil.copytree(run.step_path(1), stale)
    assert run.latest_step() == 1
    run.save_step(3, states(3.0), {})
    assert not stale.exists()


def test_incomplete_or_damaged_steps_are_absent(run):
    for step in (1, 2, 3, 4):
        run.save_step(step, states(step), {})
    (run.step_path(2) / COMPLETE).unlink()
    (run.step_path(3) / "transformer.safetensors").unlink()
    (run.step_path(4) / COMPLETE).write_text("{")
    assert run.steps() == [1]
    with pytest.raises(UserError, match="step-2 is not a complete checkpoint"):
        run.load_step(2)
    with pytest.raises(UserError, match="step-9"):
        run.load_step(9)


def test_changed_bytes_are_noticed_when_loading(run):
    run.save_step(1, states(1.0), {})
    file = run.step_path(1) / "transformer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert run.latest_step() == 1
    with pytest.raises(UserError, match=r"transformer\.safetensors is missing or changed"):
        run.load_step(1)


def test_pruning_keeps_the_newest_complete_steps(run):
    for step in (1, 2, 3, 4):
        run.save_step(step, states(step), {})
    (run.step_path(4) / COMPLETE).unlink()
    assert run.prune(keep_last=2) == [1]
    assert run.steps() == [2, 3]


def test_an_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="Cannot write"):
        RunFolder(tmp_path / "file").save_step(1, states(1.0), {})
