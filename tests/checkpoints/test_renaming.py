"""Name tables: every tensor has exactly one partner, and differences are told in full."""

import pytest

from m4v.checkpoints.renaming import Renaming
from m4v.core.errors import UserError

PAIRS = [
    ("embed.weight", "in.weight"),
    ("blocks.{dual}.to_{q}", "layers.{dual}.{q}"),
    ("tail.{single}", "end.{single}"),
]


def test_templates_expand_over_their_numbers():
    table = Renaming.from_templates(PAIRS, dual=2, q=2, single=0)
    assert table.theirs_to_ours == {
        "embed.weight": "in.weight",
        "blocks.0.to_0": "layers.0.0",
        "blocks.0.to_1": "layers.0.1",
        "blocks.1.to_0": "layers.1.0",
        "blocks.1.to_1": "layers.1.1",
    }
    assert {ours: theirs for theirs, ours in table.theirs_to_ours.items()} == table.ours_to_theirs


@pytest.mark.parametrize(
    "pairs", [[("a", "x"), ("b", "x")], [("a", "x"), ("a", "y")], [("a.{n}", "x")], [("a.{n}", "x.{m}")]]
)
def test_tables_that_lose_or_merge_tensors_are_refused(pairs):
    with pytest.raises(ValueError, match=r"."):
        Renaming.from_templates(pairs, n=2, m=2)


def test_differences_are_counted_and_the_first_ten_named():
    table = Renaming.from_templates([("w.{n}", "v.{n}")], n=30)
    table.require_theirs(table.theirs_to_ours, "here")
    table.require_ours(table.ours_to_theirs, "here")
    with pytest.raises(UserError) as caught:
        table.require_theirs(["w.0", *(f"x.{i}" for i in range(12))], "the folder")
    message = str(caught.value)
    assert "the folder holds 13 tensors, 30 are needed" in message
    assert "29 missing: w.1, w.2, w.3, w.4, w.5, w.6, w.7, w.8, w.9, w.10, and 19 more" in message
    assert "12 unknown: x.0" in message
    assert "x.9, and 2 more" in message
