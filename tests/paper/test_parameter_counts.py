"""Table 4, "Params": the attention-only base exactly, the other rows as closely as two printed decimals allow."""

from functools import cache

import pytest
import torch

from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel

BASE = 1_972_059_200  # the public Pyramid-Flow miniFLUX; printed as 1.97 B
WIDTH, HEADS, HEAD_DIM, LEVELS = 1920, 30, 64, 3


@cache
def _count(plan: str, temporal: bool = False) -> int:
    arguments = denoiser_preset("pyramid-2b") | {"mixer_plan": plan}
    arguments["temporal_branch"] = arguments["temporal_branch"] | {"enabled": temporal}
    with torch.device("meta"):
        model = M4VTransformer3DModel(**arguments)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_base_is_exact() -> None:
    assert _count("attention-only") == BASE


@pytest.mark.parametrize(
    ("plan", "temporal", "printed"),
    [
        ("attention-only", False, 1.97),
        ("pre-half", False, 2.00),
        ("post-half", False, 2.00),
        ("interleaved", False, 2.00),
        ("full", False, 2.04),
        ("parallel", False, 2.21),
        ("full", True, 2.21),
    ],
)
def test_rows_of_table_4(plan: str, temporal: bool, printed: float) -> None:
    assert _count(plan, temporal) / 1e9 == pytest.approx(printed, rel=0.005)


def test_the_parts_add_up() -> None:
    """One mixer is four square matrices and small change; the branch is the three of an attention, and a gate."""
    attention = 3 * WIDTH**2 + 3 * WIDTH + 2 * HEAD_DIM
    assert attention == 11_065_088
    projection = (WIDTH + 1) * (4 * WIDTH + HEADS)
    convolution = 3 * WIDTH * 5
    small = 2 * HEAD_DIM + 3 * HEADS + WIDTH  # norms on B and C; A, D, dt bias; output norm
    mm_dim = projection + convolution + small + LEVELS * WIDTH
    branch = attention + WIDTH
    assert _count("parallel") == BASE + 16 * mm_dim
    assert _count("full") == BASE + 16 * (mm_dim - attention)
    assert _count("full", temporal=True) == BASE + 16 * (mm_dim - attention + branch)
    assert _count("pre-half") == BASE + 8 * (mm_dim - attention)
