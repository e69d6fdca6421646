"""Feed-forwards whose products end in the GELU, as on GPUs: the same velocities, and only where layers are plain."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from m4v.models.denoiser.blocks import feed_forward, single_stream
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import history_and_noisy, prompts, random_model, times

OPTIONS: dict[str, dict[str, Any]] = {
    "full": {"mixer_plan": "full"},
    "attention-only": {"mixer_plan": "attention-only"},
    "parallel": {"mixer_plan": "parallel"},
    "scanning dual blocks": {"dual_mixer": "mm_dim", "mixer_plan": "full"},
    "added positions": {"mixer": {"positions": "added"}},
}


def _velocity(model: M4VTransformer3DModel) -> Tensor:
    dtype = next(model.video_embedder.parameters()).dtype
    with torch.no_grad():
        return model(history_and_noisy(dtype=dtype), times(), prompts(dtype=dtype))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take the route of GPUs on any device; gives the products that it makes, in order."""
    made: list[str] = []

    def noting(name: str) -> Any:
        original = getattr(single_stream, name)

        def run(*tensors: Tensor) -> Tensor:
            made.append(name)
            return original(*tensors)

        return run

    monkeypatch.setattr(feed_forward, "has_epilogue", lambda _: not torch.is_grad_enabled())
    gelu_linear, linear_of_parts = noting("gelu_linear"), noting("linear_of_parts")
    monkeypatch.setattr(feed_forward, "gelu_linear", gelu_linear)
    monkeypatch.setattr(single_stream, "gelu_linear", gelu_linear)
    monkeypatch.setattr(single_stream, "linear_of_parts", linear_of_parts)
    return made


@pytest.mark.parametrize("most_rows", [None, 0, 4096], ids=["single maps", "merged but long", "merged"])
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_velocities_stay(
    changes: dict[str, Any], most_rows: int | None, products: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(**changes)
    with monkeypatch.context() as ordinary:
        ordinary.setattr(feed_forward, "has_epilogue", lambda _: False)
        expected = _velocity(model)
    assert products == []
    if most_rows is not None:
        model.fuse_projections()
        monkeypatch.setattr(single_stream, "_MOST_MERGED_ROWS", most_rows)
    assert_relative_close(_velocity(model), expected, 1e-12)
    blocks = model.single_transformer_blocks
    in_parts = [block for block in blocks if most_rows != 4096 or block.fused is None]
    assert products.count("linear_of_parts") == len(in_parts)
    assert products.count("gelu_linear") == len(in_parts) + 2 * model.settings.num_dual_layers


@pytest.mark.usefixtures("products")
def test_longer_sequences_activate_in_a_product_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound counts the tokens of all samples; above it, what the mixer projects stays one product."""
    model = random_model(mixer_plan="attention-only", num_dual_layers=0, num_single_layers=1)
    model.fuse_projections()
    block = model.single_transformer_blocks[0]
    with torch.no_grad():
        assert not block._activates_in_product(torch.zeros(2, 2048, 16, dtype=torch.float64))
        assert block._activates_in_product(torch.zeros(2, 2049, 16, dtype=torch.float64))

    class Widths(TorchDispatchMode):
        found: list[int] = []  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.addmm.default:
                self.found.append(args[2].shape[1])
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(single_stream, "_MOST_MERGED_ROWS", 0)
    with Widths() as widths:
        _velocity(model)
    width = model.settings.width
    assert 3 * width in widths.found
    assert 4 * width in widths.found
    assert 7 * width not in widths.found


def _adapt(model: M4VTransformer3DModel) -> None:
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=["mlp_up", "up"], init_lora_weights="gaussian"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)


def _watch(model: M4VTransformer3DModel) -> None:
    for name, module in model.named_modules():
        if name.endswith(("mlp_up", "feed_forward.up")):
            module.register_forward_hook(lambda _, __, output: 2 * output)


@pytest.mark.parametrize("change", [_adapt, _watch], ids=["adapter", "hook"])
def test_adapted_and_watched_layers_are_called(
    change: Any, products: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    before = _velocity(model)
    products.clear()
    change(model)
    found = _velocity(model)
    assert products == []
    monkeypatch.setattr(feed_forward, "has_epilogue", lambda _: False)
    assert torch.equal(found, _velocity(model))
    assert not torch.equal(found, before)


@pytest.mark.usefixtures("products")
def test_gradients_reach_every_parameter() -> None:
    model = random_model()
    model(history_and_noisy(), times(), prompts()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("is_fused", [False, True])
def test_blocks_compile_whole(is_fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "has_epilogue", lambda _: not torch.is_grad_enabled())
    monkeypatch.setattr(single_stream, "_MOST_MERGED_ROWS", 40)
    model = random_model(num_dual_layers=2, num_single_layers=2, mixer_plan="attention-only")
    if is_fused:
        model.fuse_projections()
    lengths = [(0, 0, 1), (0, 0, 1, 2), (0, 0, 0, 1, 2)]

    def velocities() -> list[Tensor]:
        with torch.no_grad():
            return [model(history_and_noisy(levels), times(), prompts()) for levels in lengths]

    plain = velocities()
    torch._dynamo.reset()
    counters.clear()
    model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend="eager")
    for found, expected in zip(velocities(), plain, strict=True):
        assert torch.equal(found, expected)
    assert counters["stats"]["unique_graphs"] <= 2 + is_fused  # merged, the feed-forward of short sequences differs
    assert not counters["graph_break"]
    torch._dynamo.reset()
