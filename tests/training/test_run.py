"""Whole runs on real video files at debug size."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from m4v.checkpoints.run_folder import RunFolder
from m4v.checkpoints.weights import load_tensors
from m4v.core.errors import UserError
from m4v.training import precision
from m4v.training.config import FlowStageConfig, OptimConfig, PerDevice
from m4v.training.loop import TrainingDiverged
from m4v.training.run import train


def read_metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(run_dir):
    folder = RunFolder(run_dir)
    return folder.load_step(folder.latest_step())


@pytest.fixture
def whole(tiny_run, tmp_path):
    run_dir = tmp_path / "whole"
    train(tiny_run, run_dir=run_dir, device="cpu")
    return run_dir


def test_chain_leaves_the_documented_folder(whole):
    for name in ("config.json", "metrics.jsonl", "samples", "tokenizer"):
        assert (whole / name).exists(), name
    for name in ("model_index.json", "transformer", "vae", "text_encoder", "tokenizer", "scheduler", "training.json"):
        assert (whole / "export" / name).exists(), name
    facts = json.loads((whole / "export" / "training.json").read_text())
    assert {stage: values["steps"] for stage, values in facts["stages"].items()} == {"vae": 3, "t2i": 2, "t2v": 3}
    assert facts["stages"]["t2v"]["items"] == 12
    exported = load_tensors(whole / "export" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in exported.values()} <= {torch.bfloat16, torch.float32}


def test_export_holds_the_measured_latent_statistics(whole):
    config = json.loads((whole / "export" / "vae" / "config.json").read_text())
    assert len(config["image_shift"]) == 4
    assert config["video_scale"] != 1.0


@pytest.mark.parametrize("first", [2, 4, 6])
def test_stopping_and_resuming_changes_no_bit(tiny_run, whole, tmp_path, first):
    """2N steps equal N, resume, N: across a step inside each of the three stages."""
    run_dir = tmp_path / "resumed"
    train(tiny_run, run_dir=run_dir, device="cpu", max_steps=first)
    assert RunFolder(run_dir).latest_step() == first
    train(tiny_run, run_dir=run_dir, device="cpu")
    expected, expected_facts = last_checkpoint(whole)
    found, found_facts = last_checkpoint(run_dir)
    for part, tensors in expected.items():
        assert tensors.keys() == found[part].keys()
        for name, value in tensors.items():
            assert torch.equal(value, found[part][name]), f"{part} {name}"
    assert found_facts["items"] == expected_facts["items"]
    losses = [[line.get("loss") for line in read_metrics(path) if "loss" in line] for path in (whole, run_dir)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_timed_precision_is_kept_on_resuming(tiny_run, tmp_path, monkeypatch):
    """The timing may come out differently next time; the run must not."""
    monkeypatch.setattr(precision, "_cpu_bf16_is_faster", lambda: True)
    real_seconds, calls = precision._step_seconds, []

    def biased(objective):
        real_seconds(objective)
        calls.append(objective.use_bf16)
        return 1.0 if objective.use_bf16 else 2.0

    monkeypatch.setattr(precision, "_step_seconds", biased)
    config = replace(tiny_run, precision="auto")
    train(config, run_dir=tmp_path / "whole", device="cpu")
    train(config, run_dir=tmp_path / "split", device="cpu", max_steps=6)
    num_timings = len(calls)
    monkeypatch.setattr(precision, "_cpu_bf16_is_faster", lambda: False)
    train(config, run_dir=tmp_path / "split", device="cpu")
    assert len(calls) == num_timings
    expected, found = last_checkpoint(tmp_path / "whole")[0], last_checkpoint(tmp_path / "split")[0]
    for part, tensors in expected.items():
        for name, value in tensors.items():
            assert torch.equal(value, found[part][name]), f"{part} {name}"


def test_a_finished_run_does_nothing_more(tiny_run, whole):
    before = last_checkpoint(whole)[1]
    train(tiny_run, run_dir=whole, device="cpu")
    assert last_checkpoint(whole)[1] == before


def test_the_log_shows_one_image_batch_in_nine(tiny_run, whole, tmp_path):
    stage = replace(tiny_run.t2v, steps=PerDevice(cpu=18, accelerator=18))
    skipped = PerDevice(cpu=0, accelerator=0)
    config = replace(
        tiny_run, vae=replace(tiny_run.vae, steps=skipped), t2i=replace(tiny_run.t2i, steps=skipped), t2v=stage
    )
    train(config, run_dir=tmp_path / "mixed", device="cpu", init_from=whole)
    lines = [line for line in read_metrics(tmp_path / "mixed") if "image_batches" in line]
    assert [lines[8]["image_batches"], lines[17]["image_batches"]] == [1, 2]
    assert [lines[8]["video_batches"], lines[17]["video_batches"]] == [8, 16]
    for line in lines:
        units = {key for key in line if key.startswith("loss/unit-")}
        previous = lines[lines.index(line) - 1]["image_batches"] if line is not lines[0] else 0
        if line["image_batches"] > previous:
            assert units == {"loss/unit-0"}


def test_init_from_takes_the_exported_weights(tiny_run, whole, tmp_path):
    skipped = PerDevice(cpu=0, accelerator=0)
    still = replace(tiny_run.t2v, steps=PerDevice(cpu=1, accelerator=1), optim=OptimConfig(lr=1e-12))
    config = replace(
        tiny_run, vae=replace(tiny_run.vae, steps=skipped), t2i=replace(tiny_run.t2i, steps=skipped), t2v=still
    )
    train(config, run_dir=tmp_path / "next", device="cpu", init_from=whole / "export")
    before = load_tensors(whole / "export" / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_tensors(tmp_path / "next" / "export" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in before.items():
        torch.testing.assert_close(after[name].float(), value.float(), atol=1e-5, rtol=1e-2)


def test_a_diverging_run_stops_and_keeps_the_batch(tiny_run, tmp_path):
    skipped = PerDevice(cpu=0, accelerator=0)
    wild = replace(tiny_run.vae, optim=OptimConfig(lr=1e30, warmup_steps=0), steps=PerDevice(cpu=9, accelerator=9))
    config = replace(
        tiny_run,
        vae=wild,
        t2i=replace(tiny_run.t2i, steps=skipped),
        t2v=replace(tiny_run.t2v, steps=skipped),
        saving=replace(tiny_run.saving, log_every=3),
    )
    with pytest.raises(TrainingDiverged, match="bad-batch-step-"):
        train(config, run_dir=tmp_path, device="cpu")
    (path,) = tmp_path.glob("bad-batch-step-*.safetensors")
    assert load_tensors(path)["frames"].shape == (2, 9, 32, 32, 3)
    assert RunFolder(tmp_path).latest_step() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_saves(tiny_run, tmp_path, number):
    messages = []

    def interrupt(progress):
        if progress.phase == "t2v" and progress.done == 1 and progress.values:
            signal.raise_signal(number)
        if progress.message:
            messages.append(progress.message)

    export = train(tiny_run, run_dir=tmp_path, device="cpu", on_progress=interrupt)
    _, facts = last_checkpoint(tmp_path)
    assert (facts["stage"], facts["stage_step"]) == ("t2v", 1)
    assert signal.Signals(number).name in messages[-1]
    assert (export / "model_index.json").is_file()


def test_the_time_limit_stops_cleanly(tiny_run, tmp_path):
    train(tiny_run, run_dir=tmp_path, device="cpu", max_seconds=0.0)
    _, facts = last_checkpoint(tmp_path)
    assert facts["stage_step"] == 0


def test_changed_shapes_refuse_to_resume_but_other_settings_win(tiny_run, tmp_path):
    train(tiny_run, run_dir=tmp_path, device="cpu", max_steps=1)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train(replace(tiny_run, seed=1), run_dir=tmp_path, device="cpu")
    with pytest.raises(UserError, match="already holds checkpoints"):
        train(tiny_run, run_dir=tmp_path, device="cpu", resume="never")
    slower = replace(tiny_run, vae=replace(tiny_run.vae, optim=replace(tiny_run.vae.optim, lr=1e-5)))
    train(slower, run_dir=tmp_path, device="cpu", max_steps=1)
    assert read_metrics(tmp_path)[-1]["lr"] <= 1e-5


def test_an_override_lets_a_fixed_setting_change_and_is_checked(tiny_run, tmp_path):
    train(tiny_run, run_dir=tmp_path, device="cpu", max_steps=1)
    changed = replace(tiny_run, seed=5)
    with pytest.raises(UserError, match=r"seed: 0 -> 5(.|\n)*--resume-override KEY"):
        train(changed, run_dir=tmp_path, device="cpu", max_steps=1, resume_override=["data.folder"])
    for bad, reason in (("sead", "there is no such setting"), ("models", "networks always are")):
        with pytest.raises(UserError, match=f"--resume-override {bad}: {reason}"):
            train(changed, run_dir=tmp_path, device="cpu", max_steps=1, resume_override=[bad])
    train(changed, run_dir=tmp_path, device="cpu", max_steps=1, resume_override=["seed"])
    assert RunFolder(tmp_path).latest_step() == 2
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 5


def test_every_so_many_steps_a_checkpoint_is_kept_for_good(tiny_run, tmp_path):
    config = replace(tiny_run, saving=replace(tiny_run.saving, checkpoint_minutes=0.0, keep_last=1, keep_every=2))
    train(config, run_dir=tmp_path, device="cpu", max_steps=5)
    assert RunFolder(tmp_path).steps() == [2, 4, 5]


def test_a_stage_without_autoencoder_is_refused(tiny_run, tmp_path):
    config = replace(tiny_run, vae=replace(tiny_run.vae, steps=PerDevice(cpu=0, accelerator=0)))
    with pytest.raises(UserError, match="--init-from"):
        train(config, run_dir=tmp_path, device="cpu")


def test_a_folder_recipe_without_folder_is_refused(tiny_run, tmp_path):
    config = replace(tiny_run, data=replace(tiny_run.data, folder=None))
    with pytest.raises(UserError, match="--data"):
        train(config, run_dir=tmp_path, device="cpu")


def test_losses_fall(tiny_run, tmp_path):
    """The autoencoder learns visibly within sixty steps."""
    skipped = PerDevice(cpu=0, accelerator=0)
    config = replace(
        tiny_run,
        vae=replace(tiny_run.vae, steps=PerDevice(cpu=60, accelerator=60), optim=OptimConfig(lr=1e-2, warmup_steps=5)),
        t2i=replace(tiny_run.t2i, steps=skipped),
        t2v=replace(tiny_run.t2v, steps=skipped),
        saving=replace(tiny_run.saving, log_every=20),
    )
    train(config, run_dir=tmp_path, device="cpu")
    losses = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_batches_that_do_not_fit_the_columns_are_refused():
    with pytest.raises(UserError, match="multiple of the 4 columns"):
        FlowStageConfig(batch_size=PerDevice(cpu=30, accelerator=1024))
