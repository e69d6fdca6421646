"""The diffusers component: round trips, defaults equal to the typed configuration, pure delegation."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.renoise import jump
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.flow.solver import euler_step


def test_defaults_are_those_of_the_typed_configuration() -> None:
    scheduler = PyramidFlowScheduler()
    assert scheduler.schedule.config == PyramidFlowConfig()
    assert isinstance(scheduler, SchedulerMixin)
    assert {key: scheduler.config[key] for key in asdict(PyramidFlowConfig())} == asdict(PyramidFlowConfig())


def test_save_and_load(tmp_path: Path) -> None:
    config = PyramidFlowConfig(
        num_levels=2, level_range=(0.0, 0.4, 1.0), gamma=0.25, shift=2.0, history_halvings=(0, 0, 1)
    )
    PyramidFlowScheduler.from_flow_config(config).save_pretrained(tmp_path)
    assert (tmp_path / "scheduler_config.json").is_file()
    loaded = PyramidFlowScheduler.from_pretrained(tmp_path)
    assert loaded.schedule.config == config
    again = PyramidFlowScheduler.from_config(loaded.config)
    assert again.schedule.config == config
    assert torch.equal(again.schedule.timesteps, PyramidFlowScheduler.from_flow_config(config).schedule.timesteps)


def test_bad_settings_are_named_through_diffusers() -> None:
    with pytest.raises(UserError, match=r"gamma is 0\.5"):
        PyramidFlowScheduler(gamma=0.5)


def test_methods_delegate_without_state() -> None:
    scheduler = PyramidFlowScheduler()
    latents, velocity = torch.randn(2, 1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        stepped = scheduler.step(latents, velocity, 0.5, 0.25)
        torch.testing.assert_close(stepped, euler_step(latents, velocity, 0.5, 0.25), rtol=0, atol=0)
        jumped = scheduler.jump(latents, 1, torch.Generator().manual_seed(3))
        expected = jump(scheduler.schedule, latents, 1, torch.Generator().manual_seed(3))
        torch.testing.assert_close(jumped, expected, rtol=0, atol=0)
        steps = scheduler.inference_steps(2, 4)
        assert torch.equal(steps.timesteps, scheduler.schedule.inference_steps(2, 4).timesteps)
