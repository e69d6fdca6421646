"""`compile_repeated_blocks` without graph breaks, for prediction and for training."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.diffusers_habits.bases import PYRAMID, WAN, Base

# As many scan paths as layers: were paths baked in, each would be compiled by itself.
PLANS = {
    "scans": {"mixer_plan": "full", "recomposition": {"scan_paths": "aec"}},
    "attention": {"mixer_plan": "attention-only"},
}


@pytest.fixture(autouse=True)
def clean_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(base: Base, model: torch.nn.Module) -> list[Tensor]:
    model.zero_grad()
    base.call(model, torch.float32, 0).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_kind_of_block_compiles_once_whole_and_to_the_same_bits(base, plan):
    model = base.build(**plan)
    plain = base.velocity(model)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.equal(base.velocity(model), plain)
    # Dual and single blocks; on Wan one kind, but text that is still the prompt itself makes a case of its own.
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_mixed_plans_compile_whole(base):
    model = base.build()
    plain = base.velocity(model)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.equal(base.velocity(model), plain)


def test_compiled_blocks_train_to_the_same_bits(base):
    model = base.build().train()
    plain = gradients(base, model)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert all(torch.equal(*pair) for pair in zip(gradients(base, model), plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("base", [PYRAMID, WAN], ids=lambda base: base.name)
def test_the_compiler_s_own_view_of_a_block_gives_the_same_bits(base):
    """With operators decomposed as the compiler does, functions of our own with a backward included."""
    model = base.build()
    plain = base.velocity(model)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    assert torch.equal(base.velocity(model), plain)
