"""The loss of a column, and that recording it changes nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.training.column_loss import ColumnLosses


def _model() -> M4VTransformer3DModel:
    torch.manual_seed(0)
    model = M4VTransformer3DModel(**denoiser_preset("debug"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        parameter.grad = torch.zeros_like(parameter)
    return model


def _inputs(seed: int, device: str) -> tuple[list[LevelClip], Tensor, TextConditioning, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    clips = [LevelClip(normal(3, 4, 2, 2, 2), 0), LevelClip(normal(3, 4, 1, 4, 4), 1)]
    text = TextConditioning(
        normal(3, 5, 16).requires_grad_(), torch.ones(3, 5, dtype=torch.bool, device=device), normal(3, 16)
    )
    return clips, normal(3).abs() * 500, text, normal(3, 4, 1, 4, 4)


def test_is_the_mean_squared_error_of_the_velocity() -> None:
    model = _model()
    clips, timesteps, text, velocity = _inputs(1, "cpu")
    loss = ColumnLosses(model, use_bf16=False, use_graphs=False)(clips, timesteps, text, velocity)
    assert torch.equal(loss, (model(clips, timesteps, text) - velocity).square().mean())


@pytest.mark.gpu
def test_recorded_graphs_give_the_losses_and_gradients_of_plain_calls() -> None:
    """The same layout twice in a step, as two columns of one level may have it; earlier losses stay what they were."""
    results = []
    for use_graphs in (False, True):
        model = _model().cuda()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        losses = ColumnLosses(model, use_bf16=False, use_graphs=use_graphs)
        values, text_gradients = [], []
        for seed in (1, 2, 3):
            clips, timesteps, text, velocity = _inputs(seed, "cuda")
            # As from a text encoder: a leaf would keep the graph's own memory, which the next replay overwrites.
            encoded = replace(text, tokens=text.tokens * 1)
            loss = losses(clips, timesteps, encoded, velocity)
            (0.5 * loss).backward()
            values.append(loss.detach())
            text_gradients.append(text.tokens.grad)
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append((values, text_gradients, gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
