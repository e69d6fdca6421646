"""Group offloading: every parameter moves with a group, and is read only while its module runs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.diffusers_habits.bases import pyramid_model
from tests.diffusers_habits.offloading import lend_parameters
from tests.pipelines.debug_parts import debug_pipeline

LEVELS: dict[str, dict[str, Any]] = {
    "block_level": {"offload_type": "block_level", "num_blocks_per_group": 1},
    "leaf_level": {"offload_type": "leaf_level"},
}


def groups(model: nn.Module) -> dict[str, set[int]]:
    """By module whose call brings them to the device: the parameters that come."""
    found: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        hook = registry and registry.get_hook("group_offloading")
        if hook:
            moved = [*hook.group.parameters, *(p for part in hook.group.modules for p in part.parameters())]
            found[name] = {id(parameter) for parameter in moved}
    return found


def check_groups(model: nn.Module) -> None:
    """Each parameter is brought by its own module or by one around it."""
    found = groups(model)
    for name, parameter in model.named_parameters():
        owners = [name[:end] for end, letter in enumerate(name) if letter == "."] + [""]
        assert any(id(parameter) in found.get(owner, ()) for owner in owners), name


@pytest.mark.parametrize("options", LEVELS.values(), ids=LEVELS)
def test_group_offloading_moves_every_parameter_and_changes_no_bit(base, options):
    model = base.build()
    plain = base.velocity(model)
    model.enable_group_offload(onload_device=torch.device("cpu"), **options)
    assert torch.equal(base.velocity(model), plain)
    check_groups(model)


def test_leaf_groups_bring_what_a_mixer_holds_itself():
    model = pyramid_model()
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    found, names = groups(model), dict(model.named_parameters())
    mixer = "single_transformer_blocks.0.mixer"
    own = ("A_log", "dt_bias", "D_skip", "conv_weight", "conv_bias", "norm_weight", "norm_b", "norm_c")
    assert found[mixer] == {id(names[f"{mixer}.{name}"]) for name in own}
    assert found[f"{mixer}.registers"] == {id(names[f"{mixer}.registers.rows"])}
    branch = "single_transformer_blocks.0.temporal_branch"
    assert found[branch] == {id(names[f"{branch}.gate"])}


@pytest.mark.parametrize("time_mixer", ["attention", "ssd"])
def test_parameters_are_read_only_while_their_module_runs(base, time_mixer):
    model = base.build(temporal_branch={"mixer": time_mixer, "causal": True})
    plain = base.velocity(model)
    lend_parameters(model)
    assert torch.equal(base.velocity(model), plain)


def test_a_pipeline_offloads_all_its_networks_in_groups():
    def latents() -> Tensor:
        return pipeline("a red ball", seed=1, output_type="latent").frames

    pipeline = debug_pipeline()
    plain = latents()
    pipeline.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(latents(), plain)
    for name in ("transformer", "vae", "text_encoder"):
        check_groups(pipeline.components[name])


def test_the_autoencoder_reads_parameters_only_while_their_module_runs():
    pipeline = debug_pipeline()
    plain = pipeline("a red ball", seed=1).frames
    lend_parameters(pipeline.vae)
    assert (pipeline("a red ball", seed=1).frames == plain).all()
