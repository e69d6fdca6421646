"""Dataclass configurations: plain types out, the same object in; unknown keys and wrong types are named."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    mode: Literal["slow", "fast", 3] = "slow"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    flag: bool = False
    title: str = ""
    limit: float | None = None
    plan: str | tuple[str, ...] = "full"
    inner: Inner = field(default_factory=Inner)
    layers: tuple[Inner, ...] = ()
    other: Inner | None = None
    folder: Path = Path("runs")


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=5)
inners = st.builds(
    Inner,
    rate=finite,
    names=st.lists(text, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), finite),
    mode=st.sampled_from(["slow", "fast", 3]),
)
outers = st.builds(
    Outer,
    steps=st.integers(),
    flag=st.booleans(),
    title=text,
    limit=st.none() | finite,
    plan=text | st.lists(text, max_size=3).map(tuple),
    inner=inners,
    layers=st.lists(inners, max_size=2).map(tuple),
    other=st.none() | inners,
    folder=st.sampled_from(["a", "a/b", "/some place/x y"]).map(Path),
)


@given(outers)
def test_round_trip_through_json(config: Outer) -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(config)))) == config


@given(outers)
def test_plain_is_plain(config: Outer) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            list(map(check, value.values()))
        elif isinstance(value, list):
            list(map(check, value))
        else:
            assert value is None or type(value) in (bool, int, float, str)

    check(to_plain(config))


def test_defaults_fill_what_is_missing_and_integers_widen() -> None:
    assert from_plain(Outer, {"steps": 3, "limit": 2, "inner": {"rate": 1}}) == Outer(
        steps=3, limit=2.0, inner=Inner(rate=1.0)
    )
    assert type(from_plain(Inner, {"rate": 1}).rate) is float


@given(st.text(min_size=1, max_size=8).filter(lambda key: key not in Outer.__dataclass_fields__))
def test_an_unknown_key_is_refused_by_its_full_name(key: str) -> None:
    with pytest.raises(UserError) as caught:
        from_plain(Outer, {"steps": 1, key: 1})
    assert f"Unknown setting {key}" in str(caught.value)
    assert "steps" in str(caught.value)  # what there is instead
    if key not in Inner.__dataclass_fields__:
        with pytest.raises(UserError) as caught:
            from_plain(Outer, {"steps": 1, "layers": [{}, {key: 1}]})
        assert f"layers[1].{key}" in str(caught.value)


WRONG: list[tuple[dict[str, object], str]] = [
    ({"steps": 1.0}, "steps is 1.0; expected int"),
    ({"steps": True}, "steps is True; expected int"),
    ({"steps": "3"}, "steps is '3'; expected int"),
    ({"steps": None}, "steps is None; expected int"),
    ({"steps": [1]}, "expected int"),
    ({"steps": 1, "flag": 1}, "flag is 1; expected bool"),
    ({"steps": 1, "title": 5}, "title is 5; expected str"),
    ({"steps": 1, "limit": "x"}, "limit is 'x'; expected float"),
    ({"steps": 1, "limit": True}, "limit is True; expected float"),
    ({"steps": 1, "inner": 4}, "inner is 4; expected a table"),
    ({"steps": 1, "inner": {"rate": "x"}}, "inner.rate is 'x'; expected float"),
    ({"steps": 1, "inner": {"names": "abc"}}, "inner.names is 'abc'; expected a list"),
    ({"steps": 1, "inner": {"names": ["a", 1]}}, r"inner.names\[1\] is 1; expected str"),
    ({"steps": 1, "inner": {"pair": [1]}}, "inner.pair has 1 entries; expected 2"),
    ({"steps": 1, "inner": {"pair": [1, "x"]}}, r"inner.pair\[1\] is 'x'"),
    ({"steps": 1, "inner": {"mode": "quick"}}, "inner.mode is 'quick'; expected one of 'slow', 'fast', 3"),
    ({"steps": 1, "plan": 5}, "plan is 5; expected str"),
    ({"steps": 1, "layers": [{}, 3]}, r"layers\[1\] is 3"),
    ({"steps": 1, "folder": 3}, "folder is 3; expected Path"),
    ({}, "steps"),
]


@pytest.mark.parametrize(("mapping", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_kinds_are_refused_with_place_value_and_remedy(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_plain(Outer, mapping)
