"""Table 4, "Design of Model Structure": which of the 16 single-stream blocks attend and which scan."""

import pytest

from m4v.models.denoiser.mixer_plan import PLAN_NAMES, named_plan

A, M, P = "attention", "mm_dim", "parallel"

TABLE_4 = {
    "attention-only": (A,) * 16,
    "full": (M,) * 16,
    "pre-half": (M,) * 8 + (A,) * 8,
    "post-half": (A,) * 8 + (M,) * 8,
    "interleaved": (M, A) * 8,
    "parallel": (P,) * 16,
}


@pytest.mark.parametrize("name", TABLE_4)
def test_plan(name: str) -> None:
    assert named_plan(name, 16) == TABLE_4[name]


def test_there_are_no_other_names() -> None:
    assert set(PLAN_NAMES) == set(TABLE_4)


@pytest.mark.parametrize("name", ["pre-half", "post-half", "interleaved"])
@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6])
def test_smaller_models_keep_the_shape_of_a_plan(name: str, layers: int) -> None:
    plan = named_plan(name, layers)
    assert len(plan) == layers
    assert abs(plan.count(M) - plan.count(A)) <= 1  # type: ignore[arg-type]
