"""Padding of prompts has no say: its content, its amount and the other samples of a batch change nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import NUM_TEXT, history_and_noisy, normal, prompts, random_model, times

LENGTHS = (3, NUM_TEXT, 1, 0)

MODELS: dict[str, dict[str, Any]] = {
    "full": {},
    "attention-only": {"mixer_plan": "attention-only"},
    "parallel": {"mixer_plan": "parallel"},
    "text once": {"recomposition": {"text_at_both_ends": False}},
    "no registers": {"recomposition": {"registers": False}},
    "no conv": {"mixer": {"conv_width": 0}},
    "zero-order hold": {"mixer": {"discretisation": "zoh"}},
    "added positions": {"mixer": {"positions": "added"}},
    "not causal": {"temporal_causal_attention": False, "temporal_branch": {"causal": False}},
}


def _run(model: M4VTransformer3DModel, rows: slice, text: TextConditioning) -> Tensor:
    clips = [LevelClip(clip.latents[rows], clip.level) for clip in history_and_noisy(batch=len(LENGTHS))]
    with torch.no_grad():
        return model(clips, times(len(LENGTHS))[rows], text)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> M4VTransformer3DModel:
    return random_model(num_single_layers=3, **request.param)


def test_content_of_padding_changes_nothing(model: M4VTransformer3DModel) -> None:
    text = prompts(LENGTHS)
    rubbish = torch.where(text.mask[..., None], text.tokens, 1000 * normal(*text.tokens.shape, seed=9))
    everything = slice(None)
    velocity = _run(model, everything, text)
    assert_relative_close(_run(model, everything, replace(text, tokens=rubbish)), velocity, 1e-12)
    real = replace(text, tokens=text.tokens + text.mask[..., None] * normal(*text.tokens.shape, seed=9))
    assert not torch.allclose(_run(model, everything, real)[:3], velocity[:3])


@pytest.mark.parametrize("trim", [False, True], ids=["padded", "trimmed"])
def test_a_batch_equals_its_samples_alone(model: M4VTransformer3DModel, trim: bool) -> None:
    text = prompts(LENGTHS)
    batch = _run(model, slice(None), text)
    for row, length in enumerate(LENGTHS):
        rows = slice(row, row + 1)
        kept = length if trim else NUM_TEXT
        alone = TextConditioning(text.tokens[rows, :kept], text.mask[rows, :kept], text.pooled[rows])
        assert_relative_close(_run(model, rows, alone), batch[rows], 1e-12, f"prompt of {length} tokens")
