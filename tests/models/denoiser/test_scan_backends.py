"""Whole networks whose scans run in the kernels, interpreted, against the same networks on the plain torch path."""

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.models.denoiser.recomposition.scan_order import ScanOrder
from m4v.ops.scan_section import dispatch, launch
from tests.assertions import assert_relative_close
from tests.models.denoiser import wan_builders
from tests.models.denoiser.builders import history_and_noisy, normal, prompts, random_model, times

TOLERANCE = 2e-4
HEADS = {"num_attention_heads": 1, "attention_head_dim": 32}


@pytest.fixture
def use_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mock]:
    """Makes a backend the one of the environment; returns a count of the sections that kernels computed."""

    forward = launch.forward

    def choose(backend: str) -> Mock:
        dispatch._choose.cache_clear()
        monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", backend)
        spy = Mock(wraps=forward)
        monkeypatch.setattr(launch, "forward", spy)
        return spy

    yield choose
    dispatch._choose.cache_clear()


def with_long_steps(model: nn.Module) -> nn.Module:
    """Steps as long as those of a trained network, and little skip: otherwise the state hardly counts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.fill_(0.5)
            elif name.endswith("D_skip"):
                parameter.mul_(0.1)
            elif name.endswith("A_log"):
                parameter.sub_(3.0)
    return model


def pyramid(dtype: torch.dtype, **changes: Any) -> nn.Module:
    return with_long_steps(random_model(dtype=dtype, **(HEADS | {"rope_axes_dims": (8, 12, 12)} | changes)))


def pyramid_velocity(model: nn.Module) -> Tensor:
    dtype = model.proj_out.weight.dtype
    clips = history_and_noisy((0, 1, 1), base=(1, 1), dtype=dtype)
    return model(clips, times(dtype=dtype), prompts((3, 5), dtype=dtype))


def wan(dtype: torch.dtype, **changes: Any) -> nn.Module:
    options = HEADS | {"num_layers": 2, "mixer_plan": "full"} | changes
    return with_long_steps(wan_builders.debug_model(**options).to(dtype))


def wan_velocity(model: nn.Module) -> Tensor:
    inputs = wan_builders.inputs(lengths=(2, 6), size=(2, 4, 4))
    return model(**wan_builders.in_dtype(inputs, model.proj_out.weight.dtype)).sample


def gradients(model: nn.Module, velocity: Tensor) -> dict[str, Tensor]:
    """Of every parameter, along a random direction of the velocity."""
    model.zero_grad()
    (velocity * normal(*velocity.shape, dtype=velocity.dtype)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


PYRAMIDS: dict[str, dict[str, Any]] = {
    "default": {"num_single_layers": 1},
    "paths b and f": {"recomposition": {"scan_paths": "bf"}},
    "paths c and g": {"recomposition": {"scan_paths": "cg"}},
    "paths d and h": {"recomposition": {"scan_paths": "dh", "continuous": False}},
    "text once, no registers": {
        "recomposition": {"text_at_both_ends": False, "registers": False},
        "num_single_layers": 1,
    },
    "parallel": {"mixer_plan": "parallel", "num_single_layers": 1},
    "no convolution": {"mixer": {"conv_width": 0}, "num_single_layers": 1},
    "plain B and C": {"mixer": {"qk_norm": False, "positions": "none"}, "num_single_layers": 1},
    "wide state, zero-order hold": {
        "mixer": {"positions": "none", "state_dim": 64, "discretisation": "zoh"},
        "num_single_layers": 1,
    },
}
WANS: dict[str, dict[str, Any]] = {
    "default": {"num_layers": 1},
    "registers by role": {"recomposition": {"register_kinds": "by-role"}},
    "no text, no registers": {"text_path": "none", "recomposition": {"registers": False}},
}
# Interpreted kernels take their time: one layer of each base runs always.
QUICK = ("default", "text once, no registers")
NETWORKS = [
    pytest.param(build, call, changes, id=f"{base}, {name}", marks=[] if name in QUICK else pytest.mark.slow)
    for base, build, call, cases in (
        ("pyramid", pyramid, pyramid_velocity, PYRAMIDS),
        ("wan", wan, wan_velocity, WANS),
    )
    for name, changes in cases.items()
]


@pytest.mark.parametrize(("build", "call", "changes"), NETWORKS)
def test_velocity_and_gradients_are_those_of_plain_torch(
    build: Callable[..., nn.Module],
    call: Callable[[nn.Module], Tensor],
    changes: dict[str, Any],
    use_kernels: Callable[[str], Mock],
) -> None:
    model = build(torch.float32, **changes)
    exact = copy.deepcopy(model).double()
    launched = use_kernels("reference")
    expected = call(exact)
    expected_grads = gradients(exact, expected)
    assert launched.call_count == 0

    launched = use_kernels("triton")
    found = call(model)
    assert launched.call_count == sum(hasattr(module, "A_log") for module in model.modules())
    assert_relative_close(found, expected, TOLERANCE)
    grads = gradients(model, found)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        assert_relative_close(grad, expected_grads[name], TOLERANCE, name)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "call"), [(pyramid, pyramid_velocity), (wan, wan_velocity)], ids=["pyramid", "wan"])
def test_blocks_compile_whole_and_checkpoint_with_kernels(
    build: Callable[..., nn.Module], call: Callable[[nn.Module], Tensor], use_kernels: Callable[[str], Mock]
) -> None:
    use_kernels("triton")
    model = build(torch.float32).train()
    plain = call(model)
    plain_grads = gradients(model, plain)
    model.enable_gradient_checkpointing()
    assert all(torch.equal(grad, plain_grads[name]) for name, grad in gradients(model, call(model)).items())
    model.disable_gradient_checkpointing()
    torch._dynamo.reset()
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_relative_close(call(model), plain, 1e-6)
    torch._dynamo.reset()


def test_plans_are_translated_for_kernels_only_where_these_can_run(use_kernels: Callable[[str], Mock]) -> None:
    seen: list[ScanOrder] = []
    model = pyramid(torch.float32, num_single_layers=1)
    model.single_transformer_blocks[0].mixer.register_forward_pre_hook(lambda _, args: seen.append(args[1].scan))
    for backend in ("auto", "reference", "triton"):
        use_kernels(backend)
        pyramid_velocity(model)
    assert [order.section.kernel_index is not None for order in seen] == [False, False, True]


def test_a_network_that_kernels_cannot_run_refuses_a_forced_backend(use_kernels: Callable[[str], Mock]) -> None:
    use_kernels("triton")
    model = random_model(dtype=torch.float32)
    with pytest.raises(UserError, match="heads are 8 wide"):
        pyramid_velocity(model)
