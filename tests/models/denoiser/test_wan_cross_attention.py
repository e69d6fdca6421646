"""Cross-attention of every layer reads the projected prompt itself, whatever the scans made of their text (C1)."""

import pytest
import torch
from torch import Tensor

from tests.models.denoiser.wan_builders import debug_model, inputs, velocity


@pytest.mark.parametrize("text_path", ["carried", "read-only", "none"])
@pytest.mark.parametrize("plan", ["full", "pre-half"])
def test_keys_are_the_prompt_in_every_layer(plan: str, text_path: str) -> None:
    model = debug_model(mixer_plan=plan, text_path=text_path)
    arguments = inputs()
    with torch.no_grad():
        prompt = model.condition_embedder.text_embedder(arguments["encoder_hidden_states"])
    keys: list[Tensor] = []
    for block in model.blocks:
        block.attn2.register_forward_hook(lambda _, inputs, output: keys.append(inputs[1]))
    velocity(model, arguments)
    assert len(keys) == len(model.blocks) > 1
    assert prompt.any()
    assert all(torch.equal(key, prompt) for key in keys)
