"""Which unit is trained: the published complement rule, coverage, uniformity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.flow.unit_choice import ComplementUnits, UniformUnits


def published(step: int, rank: int, max_frames: int, group: int, length: int) -> tuple[int, int]:
    """Write the published rule in its own words: counts of units, the noisy one included."""
    turn = step % (max_frames // group)
    high = (rank % group + 1) + turn * group
    low = 1 + max_frames - high
    return min(max(low, 1), length) - 1, min(high, length) - 1


@given(
    step=st.integers(0, 500), rank=st.integers(0, 63), turns=st.integers(1, 8), group=st.integers(1, 8), cut=st.data()
)
def test_complement_rule_is_the_published_one(step: int, rank: int, turns: int, group: int, cut: st.DataObject) -> None:
    max_units = turns * group
    length = cut.draw(st.integers(1, max_units))
    low, high = published(step, rank, max_units, group, length)
    rule = ComplementUnits(max_units=max_units, group_size=group)
    assert rule.units(step=step, rank=rank, num_units=length, num_levels=3) == (low, low, high)


@pytest.mark.parametrize(("max_units", "group_size"), [(16, 8), (16, 1), (32, 8), (5, 5)])
def test_every_unit_is_trained_once_per_round_at_every_level(max_units: int, group_size: int) -> None:
    rule = ComplementUnits(max_units=max_units, group_size=group_size)
    chosen = [
        rule.units(step=step, rank=rank, num_units=max_units, num_levels=3)
        for step in range(max_units // group_size)
        for rank in range(group_size)
    ]
    for level in range(3):
        assert sorted(units[level] for units in chosen) == list(range(max_units))


@pytest.mark.parametrize(("max_units", "group_size"), [(31, 8), (4, 8), (0, 1), (4, 0)])
def test_groups_that_would_miss_units_are_rejected(max_units: int, group_size: int) -> None:
    with pytest.raises(UserError, match=f"group_size is {group_size}"):
        ComplementUnits(max_units=max_units, group_size=group_size)


def test_uniform_units_are_uniform_independent_and_repeatable() -> None:
    rule = UniformUnits(seed=3)
    draws = [rule.units(step=step, rank=1, num_units=4, num_levels=2) for step in range(4000)]
    assert draws == [UniformUnits(seed=3).units(step=step, rank=1, num_units=4, num_levels=2) for step in range(4000)]
    assert draws != [rule.units(step=step, rank=2, num_units=4, num_levels=2) for step in range(4000)]
    pairs = {(low, high): draws.count((low, high)) for low in range(4) for high in range(4)}
    assert list(pairs.values()) == pytest.approx([250] * 16, abs=65)


@pytest.mark.parametrize("rule", [ComplementUnits(max_units=8), UniformUnits(seed=0)])
def test_an_image_trains_unit_zero(rule: ComplementUnits | UniformUnits) -> None:
    assert rule.units(step=5, rank=0, num_units=1, num_levels=3) == (0, 0, 0)
