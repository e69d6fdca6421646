"""Encoded prompts: batches stack in order, dtype moves embeddings only, wrong shapes do not pass."""

import pytest
import torch

from m4v.core.text_conditioning import TextConditioning


def _text(batch: int, value: float) -> TextConditioning:
    mask = torch.arange(3) < torch.arange(1, batch + 1)[:, None]
    return TextConditioning(torch.full((batch, 3, 4), value), mask, torch.full((batch, 5), value))


def test_concatenation_keeps_order() -> None:
    both = _text(1, 1.0).concatenate(_text(2, 2.0))
    assert both.tokens[:, 0, 0].tolist() == [1.0, 2.0, 2.0]
    assert both.pooled[:, 0].tolist() == [1.0, 2.0, 2.0]
    assert both.mask.sum(1).tolist() == [1, 1, 2]


def test_dtype_applies_to_embeddings_only() -> None:
    moved = _text(2, 1.0).to(dtype=torch.bfloat16)
    assert moved.tokens.dtype == moved.pooled.dtype == torch.bfloat16
    assert moved.mask.dtype == torch.bool
    assert _text(2, 1.0).to("cpu").tokens.dtype == torch.float32


def test_a_mask_of_another_shape_or_type_is_refused() -> None:
    with pytest.raises(AssertionError):
        TextConditioning(torch.zeros(2, 3, 4), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 5))
    with pytest.raises(AssertionError):
        TextConditioning(torch.zeros(2, 3, 4), torch.ones(2, 3), torch.zeros(2, 5))
