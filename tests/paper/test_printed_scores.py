"""Tables 1, 3, 4, 5 and 7: what their own arithmetic says."""

import pytest

from m4v.analysis.paper_tables.printed_scores import TABLE_4_SCORES, table_1, table_3, table_5, table_7


def test_totals_follow_from_quality_and_semantic() -> None:
    rows = (*table_1(), *table_5())
    assert len(rows) == 18
    assert all(row.is_consistent for row in rows)
    widest = max(rows, key=lambda row: abs(row.recomputed - row.total))
    assert widest.name == "Kling"
    assert widest.recomputed == pytest.approx(81.840)


def test_the_bold_motion_smoothness_is_not_of_a_public_model() -> None:
    best = max(table_1(), key=lambda row: row.others[0])
    assert (best.name, best.is_public) == ("Gen-2", False)
    assert max((row for row in table_1() if row.is_public), key=lambda row: row.others[0]).name == "M4V (Pyramid Flow)"


def test_m4v_on_wan_is_below_wan_in_two_columns() -> None:
    rows = {row.name: row for row in table_1()}
    ours, base = rows["M4V (Wan2.1)"], rows["Wan2.1"]
    assert ours.total > base.total
    assert ours.semantic < base.semantic
    assert ours.others[3] < base.others[3]


def test_averages_of_table_3_are_of_four_columns() -> None:
    assert all(abs(row.four - (row.printed or 0)) <= 0.0051 for row in table_3())


def test_averages_of_table_4_are_of_four_metrics_too() -> None:
    rows = {row.name: row for row in table_3()}
    assert rows["text, registers"].printed == TABLE_4_SCORES["Full"]
    assert rows["text, registers, temporal branch"].printed == TABLE_4_SCORES["Full+Temp-Branch"]


def test_both_means_of_table_7() -> None:
    without, with_guidance = table_7()
    assert (without.seven, with_guidance.seven) == pytest.approx((77.42, 78.09), abs=0.005)
    assert (without.four, with_guidance.four) == pytest.approx((61.96, 63.12), abs=0.005)


def test_reward_learning_and_data_add_more_than_their_sum() -> None:
    plain, reward, data, both = (row.total for row in table_5())
    assert (reward - plain, data - plain, both - plain) == pytest.approx((0.16, 0.04, 0.36))
