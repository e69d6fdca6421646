"""Fused projections: the same velocities, the same state dict and memory; ended by whatever would make them wrong."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import history_and_noisy, prompts, random_model, times

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "attention-only": {"mixer_plan": "attention-only"},
    "parallel": {"mixer_plan": "parallel"},
    "scanning dual blocks": {"dual_mixer": "mm_dim"},
    "added positions": {"mixer": {"positions": "added"}, "mixer_plan": ["mm_dim", "parallel"]},
}


def _velocity(model: M4VTransformer3DModel) -> Tensor:
    dtype = next(model.video_embedder.parameters()).dtype
    with torch.no_grad():
        return model(history_and_noisy(dtype=dtype), times(), prompts(dtype=dtype))


def _bytes(model: nn.Module) -> int:
    """Memory behind parameters and buffers, shared memory once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _products(model: M4VTransformer3DModel) -> int:
    """Matrix products of linear layers in one call."""

    class Counter(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func in (torch.ops.aten.addmm.default, torch.ops.aten.addmm.out)
            return func(*args, **(kwargs or {}))

    with Counter() as counter:
        _velocity(model)
    return counter.count


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_velocities_memory_and_state_stay_and_products_are_fewer(changes: dict[str, Any]) -> None:
    model = random_model(dtype=torch.float32, **changes)
    plain, size, products = _velocity(model), _bytes(model), _products(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.fuse_projections()
    assert_relative_close(_velocity(model), plain, 1e-5)
    assert _bytes(model) == size
    assert _products(model) <= products - 5  # at least the modulations
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.unfuse_projections()
    assert _products(model) == products
    assert torch.equal(_velocity(model), plain)


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_half_precision_stays_near(changes: dict[str, Any]) -> None:
    model = random_model(dtype=torch.bfloat16, **changes)
    plain = _velocity(model)
    model.fuse_projections()
    assert_relative_close(_velocity(model), plain, 0.01)


def test_everything_that_shares_an_input_is_merged() -> None:
    model = random_model(num_single_layers=3, mixer_plan=["mm_dim", "attention", "parallel"])
    model.fuse_projections()
    merged = {name.removesuffix(".fused"): module.sizes for name, module in model.named_modules() if "fused" in name}
    width = model.settings.width
    assert merged == {
        "fused": [6 * width] * 2 + [3 * width] * 3 + [2 * width],
        "transformer_blocks.0.text": [width] * 3,
        "transformer_blocks.0.video": [width] * 3,
        "single_transformer_blocks.0": [4 * width, 4 * width],
        "single_transformer_blocks.0.temporal_branch": [width] * 3,
        "single_transformer_blocks.1": [width] * 3 + [4 * width],
        "single_transformer_blocks.2": [width] * 3 + [4 * width] * 2,
    }


def test_gradients_belong_to_the_single_maps() -> None:
    model = random_model()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(history_and_noisy(), times(), prompts()).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    model.fuse_projections()
    fused = gradients()
    assert len(fused) == len(plain)
    assert all(torch.equal(*pair) for pair in zip(fused, plain, strict=True))


def test_weights_loaded_or_changed_in_place_count_at_once() -> None:
    model, other = random_model(), random_model(seed=1)
    model.fuse_projections()
    model.load_state_dict(other.state_dict())
    assert model.fused is not None
    assert_relative_close(_velocity(model), _velocity(other), 1e-10)
    assert model.fused is not None


def test_files_are_the_same(tmp_path: Path) -> None:
    model = random_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "plain")
    model.fuse_projections()
    model.save_pretrained(tmp_path / "fused")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "fused" / name).read_bytes()


def test_moving_and_casting_merges_anew() -> None:
    model = random_model()
    model.fuse_projections()
    model.to(torch.float32)
    assert model.fused is not None
    assert model.fused.weight.dtype == torch.float32
    assert model.fused.weight.data_ptr() == model.shared_projections()[0].weight.data_ptr()
    assert_relative_close(_velocity(model), _velocity(random_model(dtype=torch.float32)), 1e-5)


def _replace_data(model: M4VTransformer3DModel) -> None:
    projection = model.single_transformer_blocks[0].mixer.in_proj
    projection.weight.data = 2 * projection.weight.data


def _assign_state(model: M4VTransformer3DModel) -> None:
    model.load_state_dict({name: 0.5 * value for name, value in model.state_dict().items()}, assign=True)


def _adapt(model: M4VTransformer3DModel) -> None:
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=["mixer.in_proj", "mlp_up"], init_lora_weights="gaussian"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)


def _offload(model: M4VTransformer3DModel) -> None:
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def _watch(model: M4VTransformer3DModel) -> None:
    model.single_transformer_blocks[0].mlp_up.register_forward_hook(lambda _, __, output: 2 * output)


def _replace_layer(model: M4VTransformer3DModel) -> None:
    torch.manual_seed(1)
    model.transformer_blocks[0].text.to_k = nn.Linear(16, 16).double()


CHANGES = {
    "data": _replace_data,
    "state assigned": _assign_state,
    "adapter": _adapt,
    "offloading": _offload,
    "hook": _watch,
    "layer": _replace_layer,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_replaces_weights_or_layers_is_noticed(change: Any) -> None:
    fused, plain = random_model(), random_model()
    fused.fuse_projections()
    change(fused)
    change(plain)
    assert torch.equal(_velocity(fused), _velocity(plain))
    assert fused.fused is None


def test_a_copy_does_not_read_the_original() -> None:
    model = random_model()
    plain = _velocity(model)
    model.fuse_projections()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_relative_close(_velocity(twin), plain, 1e-10)


def test_what_cannot_be_fused_is_refused_by_name() -> None:
    adapted = random_model()
    _adapt(adapted)
    with pytest.raises(UserError, match=r"blocks\.0\.mixer\.in_proj is a Linear that is quantised, adapted or watched"):
        adapted.fuse_projections()
    assert adapted.fused is None
    mixed = random_model()
    mixed.single_transformer_blocks[1].mlp_up.to(torch.float32)
    with pytest.raises(UserError, match=r"blocks\.1\.mlp_up are not of one number format on one device \(float32"):
        mixed.fuse_projections()
    assert mixed.fused is None
