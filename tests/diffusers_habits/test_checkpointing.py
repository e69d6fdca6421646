"""Gradient checkpointing: blocks run twice, gradients are the same."""

import torch
from torch import Tensor


def gradients(base, model: torch.nn.Module) -> list[Tensor]:
    model.zero_grad()
    base.call(model, torch.float32, 0).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_checkpointing_runs_blocks_again_and_changes_no_gradient(base):
    model = base.build().train()
    plain = gradients(base, model)
    runs: list[int] = []
    for block in base.blocks(model):
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    model.enable_gradient_checkpointing()
    assert all(torch.equal(*pair) for pair in zip(gradients(base, model), plain, strict=True))
    assert len(runs) == 2 * len(base.blocks(model))
    model.disable_gradient_checkpointing()
    gradients(base, model)
    assert len(runs) == 3 * len(base.blocks(model))
