"""Habits that both bases share are tested on both."""

import pytest

from tests.diffusers_habits.bases import PYRAMID, WAN, Base


@pytest.fixture(scope="module", params=[PYRAMID, WAN], ids=lambda base: base.name)
def base(request: pytest.FixtureRequest) -> Base:
    """The pyramid base, then the Wan base."""
    return request.param
