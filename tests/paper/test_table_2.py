"""Table 2: operations of whole videos at its sizes, beside the printed seconds."""

import pytest

from m4v.analysis.paper_tables.table_2 import Table2, Table2Row, table_2


@pytest.fixture(scope="module")
def table() -> Table2:
    return table_2()


def _row(table: Table2, name: str, size: str | None) -> Table2Row:
    return next(row for row in table.rows if row.name == name and row.size == size)


@pytest.mark.parametrize(
    ("name", "size", "seconds"),
    [
        ("HunyuanVideo", None, 1890),
        ("PyramidFlow", "pyramid-2b", 812),
        ("M4V (PyramidFlow)", "pyramid-2b", 613),
        ("Wan2.1", "wan-14b", 1700),
        ("M4V (Wan2.1)", "wan-14b", 1210),
        ("M4V (Wan2.1)", "wan-1.3b", 1210),
    ],
)
def test_printed_seconds(table: Table2, name: str, size: str | None, seconds: float) -> None:
    assert _row(table, name, size).paper_seconds == seconds


@pytest.mark.parametrize(
    ("name", "size", "pflop"),
    [("PyramidFlow", "pyramid-2b", 50.7), ("Wan2.1", "wan-14b", 652.3), ("Wan2.1", "wan-1.3b", 125.0)],
)
def test_whole_videos_of_the_attention_bases(table: Table2, name: str, size: str, pflop: float) -> None:
    assert _row(table, name, size).pflop == pytest.approx(pflop, abs=0.06)


def test_mixers_of_the_pyramid_base(table: Table2) -> None:
    assert _row(table, "PyramidFlow", "pyramid-2b").mixer_pflop == pytest.approx(32.0, abs=0.06)


def test_evaluations_are_the_published_ones(table: Table2) -> None:
    """60 for the first latent frame and 30 for each of 30 others; 50 steps; all of them twice for guidance."""
    assert _row(table, "PyramidFlow", "pyramid-2b").calls == 2 * 960
    assert _row(table, "Wan2.1", "wan-14b").calls == 100


def test_implied_rate_is_operations_over_printed_seconds(table: Table2) -> None:
    assert _row(table, "Wan2.1", "wan-14b").implied_tflops_per_second == pytest.approx(384, abs=0.5)
    assert _row(table, "Wan2.1", "wan-1.3b").implied_tflops_per_second == pytest.approx(73.5, abs=0.05)


def test_nothing_is_invented_for_a_network_that_is_not_here(table: Table2) -> None:
    row = _row(table, "HunyuanVideo", None)
    assert row.pflop is None
    assert row.implied_tflops_per_second is None


def test_speedups_are_shares_of_the_rows(table: Table2) -> None:
    assert [pair.size for pair in table.speedups] == ["pyramid-2b", "wan-14b", "wan-1.3b"]
    assert [pair.paper_seconds for pair in table.speedups] == pytest.approx([613 / 812, 1210 / 1700, 1210 / 1700])
    assert all(pair.pflop < 1 for pair in table.speedups)
