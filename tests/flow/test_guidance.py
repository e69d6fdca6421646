"""Guidance identities and the scales of first and later units."""

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.guidance import ClassifierFreeGuidance, LinearDecay, UnitGuidance

NEGATIVE, POSITIVE = torch.randn(2, 1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_scale_zero_is_negative_and_one_is_positive() -> None:
    torch.testing.assert_close(ClassifierFreeGuidance(0.0).combine(NEGATIVE, POSITIVE), NEGATIVE, rtol=0, atol=0)
    torch.testing.assert_close(ClassifierFreeGuidance(1.0).combine(NEGATIVE, POSITIVE), POSITIVE)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 7.5])
def test_guidance_is_an_affine_combination(scale: float) -> None:
    guidance = ClassifierFreeGuidance(scale)
    torch.testing.assert_close(guidance.combine(POSITIVE, POSITIVE), POSITIVE, rtol=0, atol=0)
    expected = (1 - scale) * NEGATIVE + scale * POSITIVE
    torch.testing.assert_close(guidance.combine(NEGATIVE, POSITIVE), expected, rtol=1e-5, atol=1e-5)
    assert guidance.combine(NEGATIVE.bfloat16(), POSITIVE.bfloat16()).dtype == torch.bfloat16


def test_arguments_stay_as_they_were() -> None:
    negative, positive = NEGATIVE.clone(), POSITIVE.clone()
    ClassifierFreeGuidance(4.0).combine(negative, positive)
    assert torch.equal(negative, NEGATIVE)
    assert torch.equal(positive, POSITIVE)


def test_only_scales_above_one_need_the_negative_prompt() -> None:
    assert [ClassifierFreeGuidance(scale).needs_negative for scale in (0.0, 0.5, 1.0, 7.0)] == [
        False,
        True,
        False,
        True,
    ]


def test_first_and_later_units() -> None:
    guidance = UnitGuidance(first=7.0, later=5.0)
    assert [guidance.for_unit(unit).scale for unit in (0, 1, 2, 30)] == [7.0, 5.0, 5.0, 5.0]


def test_linear_decay_replaces_both_scales_down_to_a_floor() -> None:
    guidance = UnitGuidance(first=7.0, later=5.0, decay=LinearDecay())
    assert [guidance.for_unit(unit).scale for unit in (0, 1, 2, 9, 10, 11, 30)] == [7.0, 6.5, 6.0, 2.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_bad_values_are_rejected(scale: float) -> None:
    with pytest.raises(UserError, match="guidance scale"):
        ClassifierFreeGuidance(scale)
    with pytest.raises(UserError, match="slope"):
        LinearDecay(slope=scale)
