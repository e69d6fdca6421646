"""`m4v train RECIPE --dry-run`: a plan, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m4v.analysis.training_cost import pyramid_saved_bytes, state_bytes, with_checkpoints
from m4v.cli.main import main
from m4v.cli.train_plan import plan_training
from m4v.core.errors import UserError
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import PRESETS
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.parameters import count_parameters
from m4v.recipes.debug import debug
from m4v.recipes.registry import get_recipe


def test_a_dry_run_prints_a_plan_and_touches_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug", "--dry-run", "--device", "cpu", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["vae", "t2i", "t2v"]
    assert plan["config"]["name"] == "debug"
    assert plan["hours"] == pytest.approx(sum(stage["hours"] for stage in plan["stages"]))
    assert list(tmp_path.iterdir()) == []


def test_tokens_of_a_step_are_those_of_its_columns() -> None:
    """Nine frames of 64 px: three units of 8 x 8, 4 x 4 and 2 x 2 tokens, 12 text tokens."""
    plan = plan_training(debug(), device_type="cpu", num_devices=1, init_from=None)
    image_stage, video_stage = plan.stages[1], plan.stages[2]
    image = (12 + 4) + 2 * (12 + 16) + (12 + 64)
    assert image_stage.tokens_per_step["mean"] == image
    # History (Eq. 4): the frame before at full size, the one before that at half of it, older ones at a quarter.
    unit_1 = (12 + 4 + 4) + 2 * (12 + 16 + 16) + (12 + 64 + 64)
    unit_2 = (12 + 4 + 4 + 4) + 2 * (12 + 4 + 16 + 16) + (12 + 16 + 64 + 64)
    assert video_stage.tokens_per_step["video"] == pytest.approx((image + unit_1 + unit_2) / 3)
    mean = (video_stage.tokens_per_step["video"] * 8 + image) / 9
    assert video_stage.tokens_per_step["mean"] == pytest.approx(mean)


def test_parameters_are_those_of_the_networks() -> None:
    plan = plan_training(get_recipe("toybox-xs"), device_type="cuda", num_devices=1, init_from=None)
    with torch.device("meta"):
        transformer = count_parameters(M4VTransformer3DModel(mixer_plan="full", **_preset("toybox-xs")))
    assert 0 < plan.stages[1].trained_parameters - transformer < 1_000_000
    assert plan.stages[0].trained_parameters == plan.stages[1].frozen_parameters


def _preset(name: str) -> dict[str, object]:
    from m4v.models.denoiser.config import denoiser_preset

    return {key: value for key, value in denoiser_preset(name).items() if key != "mixer_plan"}


def test_devices_share_the_states_and_the_time() -> None:
    recipe = get_recipe("toybox-xs-t2v")
    alone, four = (
        plan_training(recipe, device_type="cuda", num_devices=count, init_from=None).stages[0] for count in (1, 4)
    )
    assert four.memory_bytes["states"] == alone.memory_bytes["states"] // 4
    assert four.memory_bytes["activations"] < alone.memory_bytes["activations"] / 2
    assert four.hours == pytest.approx(alone.hours / 4)


def test_saved_activations_are_what_autograd_holds() -> None:
    """Against torch's own count of saved tensors on the CPU, each storage once."""
    config, rows = PRESETS["debug"], 2
    layout = SequenceLayout((FrameGrid(0, 2, 2), FrameGrid(1, 4, 4), FrameGrid(2, 8, 8)), 12)
    from m4v.analysis.denoising_memory import pyramid_inputs

    network = M4VTransformer3DModel(**_preset("debug"), mixer_plan=config.mixer_plan).to(torch.bfloat16)
    inputs = pyramid_inputs(config, layout, rows, torch.bfloat16, "cpu")
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(*inputs)
    predicted = pyramid_saved_bytes(config, layout, rows)
    assert output is not None
    assert 0.8 * sum(held.values()) < predicted < 1.6 * sum(held.values())


def test_checkpoints_and_shards_lower_memory_as_said() -> None:
    assert with_checkpoints(1000, 0.0, 10) == 1000
    assert with_checkpoints(1000, 1.0, 10) == 100
    assert state_bytes(100, 2) == state_bytes(100) // 2


def test_sizes_of_the_initial_model_are_needed_and_used() -> None:
    recipe = get_recipe("finetune")
    with pytest.raises(UserError, match="--init-from toybox-xs"):
        plan_training(recipe, device_type="cpu", num_devices=1, init_from=None)
    from m4v.checkpoints.bundled import bundled_models

    plan = plan_training(recipe, device_type="cpu", num_devices=1, init_from=bundled_models()["toybox-xs"])
    assert (plan.config["data"]["num_frames"], plan.config["data"]["height"]) == (17, 64)


def test_bad_flags_are_named(capsys) -> None:
    assert main(["train", "debug", "--dry-run", "--devices", "0"]) == 2
    assert "--devices is 0" in capsys.readouterr().err
    assert main(["train", "debug", "--json", "-"]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_an_unshareable_batch_is_refused_before_anything_runs() -> None:
    config = replace(debug(), vae=replace(debug().vae, steps=debug().vae.steps))
    with pytest.raises(UserError, match="cannot be shared evenly"):
        plan_training(config, device_type="cuda", num_devices=7, init_from=None)
