"""Runs killed without warning: what is on the disk is a run that goes on, from no earlier than its last checkpoint."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from m4v.checkpoints.run_folder import COMPLETE, RunFolder
from m4v.core.config_io import to_plain
from m4v.training.optim_config import PerDevice
from m4v.training.run import train

_PROGRAM = """
import json, sys
from pathlib import Path
from m4v.core.config_io import from_plain
from m4v.training.config import RunConfig
from m4v.training.run import train

config = from_plain(RunConfig, json.loads(Path(sys.argv[1]).read_text()))
train(config, run_dir=sys.argv[2], device="cpu")
"""


def _long_run(config):
    """Saves after every step, so that a kill often meets a save."""
    steps = PerDevice(cpu=16, accelerator=16)
    skipped = PerDevice(cpu=0, accelerator=0)
    return replace(
        config,
        vae=replace(config.vae, steps=steps),
        t2i=replace(config.t2i, steps=skipped),
        t2v=replace(config.t2v, steps=skipped),
        saving=replace(config.saving, checkpoint_minutes=1e-9, keep_last=2),
    )


def _saved(run_dir):
    """Newest checkpoint and newest metric line, as a reader of the disk sees them."""
    folder = RunFolder(run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines() if (run_dir / "metrics.jsonl").exists() else []
    return folder.latest_step() or 0, max((_step(line) for line in lines), default=0)


def _step(line):
    try:
        return json.loads(line)["step"]
    except ValueError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(tiny_run, tmp_path):
    config = _long_run(tiny_run)
    (tmp_path / "config.json").write_text(json.dumps(to_plain(config)))
    run_dir, rng = tmp_path / "killed", random.Random(0)
    kept, num_kills = 0, 0
    while kept < 12 and num_kills < 4:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / "config.json"), str(run_dir)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while _saved(run_dir)[0] < kept + 2 and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            num_kills += 1
        _, error = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), error.decode()
        found, logged = _saved(run_dir)
        assert found >= kept + 2, "a resumed run went on from its checkpoint"
        # One step may be logged but not saved yet, and one may be under way.
        assert logged - found <= 1
        for entry in (run_dir / "checkpoints").iterdir():
            if entry.name.startswith("step-") and (entry / COMPLETE).exists():
                # What looks complete must be: reading checks every byte.
                RunFolder(run_dir).load_step(int(entry.name.removeprefix("step-")))
        kept = found
    assert num_kills >= 2
    train(config, run_dir=run_dir, device="cpu")
    whole = tmp_path / "whole"
    train(config, run_dir=whole, device="cpu")
    expected, _ = RunFolder(whole).load_step(16)
    resumed, _ = RunFolder(run_dir).load_step(16)
    for part, tensors in expected.items():
        for name, value in tensors.items():
            assert torch.equal(value, resumed[part][name]), f"{part} {name}"
