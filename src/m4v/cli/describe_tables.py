"""The paper's tables as lines for people and as JSON."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from m4v.analysis.paper_tables import printed_scores, table_2, table_4
from m4v.core.errors import UserError

Report = tuple[dict[str, Any], list[str]]
_WIDTH = 110


def table_report(number: int) -> Report:
    """Recompute a table: JSON types, and lines.

    Raises:
        UserError: if the table is none that can be computed.
    """
    if number not in _TABLES:
        available = ", ".join(map(str, _TABLES))
        raise UserError(f"paper_table is {number}; the tables that can be computed are {available}.")
    return _TABLES[number]()


def _table_2() -> Report:
    table = table_2.table_2()
    rows = [{**asdict(row), "implied_tflops_per_second": row.implied_tflops_per_second} for row in table.rows]
    lines = [
        "Table 2 of the paper: operations of our networks beside the printed seconds",
        "",
        f"{'':<19}{'counted as':<12}{'video':<15}{'samples':>8}{'PFLOP':>9}{'mixers':>9}{'paper s':>9}{'TFLOP/s':>9}",
    ]
    for row in table.rows:
        video = f"{row.video.height}x{row.video.width}x{row.video.num_frames}"
        start = f"{row.name:<19}{row.size or '-':<12}{video:<15}"
        if row.pflop is None:
            lines.append(f"{start}{'-':>8}{'-':>9}{'-':>9}{row.paper_seconds:>9.0f}{'-':>9}")
            continue
        lines.append(
            f"{start}{row.calls:>8}{row.pflop:>9.1f}{row.mixer_pflop:>9.1f}{row.paper_seconds:>9.0f}"
            f"{row.implied_tflops_per_second:>9.0f}"
        )
    lines += ["", "M4V over the model it grows from: share of operations, share of printed seconds"]
    lines += [f"  {pair.size:<12}{pair.pflop:>7.2f}{pair.paper_seconds:>7.2f}" for pair in table.speedups]
    report = {
        "table": 2,
        "convention": table_2.CONVENTION,
        "remarks": table_2.REMARKS,
        "rows": rows,
        "speedups": [asdict(pair) for pair in table.speedups],
    }
    return report, [*lines, "", *_wrapped([table_2.CONVENTION, *table_2.REMARKS])]


def _table_4() -> Report:
    table = table_4.table_4()
    rows = [{**asdict(row), "deviation": row.deviation} for row in table.rows]
    columns = f"{'paper':>8}{'ours':>8}{'no text':>9}"
    lines = [
        "Table 4 of the paper: ours beside the printed numbers",
        "",
        f"{'':<37}{'':>16}{'TFLOPs, 121 frames':>28}{'TFLOPs, 241 frames':>28}",
        f"{'':<18}{'parameters':>14}{'paper':>8}{'off by':>8}   {columns}   {columns}",
    ]
    for row in table.rows:
        start = f"{row.name:<18}{row.parameters:>14,}{row.paper_parameters_billion:>7.2f}B{row.deviation:>+8.2%}"
        lines.append(start + _pairs(row))
    lines += ["", "one layer: TFLOPs that the printed rows imply, and ours"]
    lines += [f"{cost.letter} {cost.name:<46}{_pairs(cost)}" for cost in table.layers]
    scan = table.dual_stream_scan
    lines += [
        "",
        f"Full+Temp-Branch with a scan in the 8 dual-stream layers too (A.2): {scan.parameters:,} parameters, "
        f"{scan.tflops[0]:.2f} TFLOPs,",
        f"{scan.tflops[1]:.2f} for 241 frames ({scan.tflops_without_text[1]:.2f} without text), where A.2 prints "
        f"{scan.paper_tflops} for the paper's 29.52",
    ]
    report = {
        "table": 4,
        "convention": table_4.CONVENTION,
        "remarks": table_4.REMARKS,
        "rows": rows,
        "layers": [asdict(cost) for cost in table.layers],
        "dual_stream_scan": asdict(scan),
    }
    return report, [*lines, "", *_wrapped([table_4.CONVENTION, *table_4.REMARKS])]


def _pairs(values: table_4.Table4Row | table_4.LayerCost) -> str:
    trios = zip(values.paper_tflops, values.tflops, values.tflops_without_text, strict=True)
    return "".join(f"   {paper:>8.2f}{ours:>8.2f}{bare:>9.2f}" for paper, ours, bare in trios)


def _wrapped(paragraphs: Iterable[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, _WIDTH)]


def _totals_table(number: int, title: str, rows: Sequence[printed_scores.TotalsRow]) -> Report:
    lines = [title, "", f"{'':<28}{'quality':>9}{'semantic':>10}{'total':>8}{'recomputed':>12}{'off by':>9}"]
    lines += [
        f"{row.name:<28}{row.quality:>9.2f}{row.semantic:>10.2f}{row.total:>8.2f}{row.recomputed:>12.3f}"
        f"{row.recomputed - row.total:>+9.3f}"
        for row in rows
    ]
    plain = [{**asdict(row), "recomputed": row.recomputed, "is_consistent": row.is_consistent} for row in rows]
    return _scores_report(number, plain, lines)


def _means_table(number: int, title: str, rows: Sequence[printed_scores.MeanRow]) -> Report:
    lines = [title, "", f"{'':<34}{'printed':>9}{'mean of 4':>11}{'mean of 7':>11}"]
    lines += [f"{row.name:<34}{_number(row.printed):>9}{row.four:>11.2f}{_number(row.seven):>11}" for row in rows]
    return _scores_report(number, [{**asdict(row), "four": row.four, "seven": row.seven} for row in rows], lines)


def _scores_report(number: int, rows: list[dict[str, Any]], lines: list[str]) -> Report:
    remarks = (*printed_scores.REMARKS[number], _NO_OWN_SCORES)
    return {"table": number, "remarks": remarks, "rows": rows}, [*lines, "", *_wrapped(remarks)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


_NO_OWN_SCORES = (
    "No scores of ours stand beside these: they need VBench's models and trained weights of the paper's size. "
    "m4v evaluate vbench-export and vbench-score make them where you have both."
)
_TABLES: dict[int, Callable[[], Report]] = {
    1: lambda: _totals_table(1, "Table 1 of the paper: totals recomputed", printed_scores.table_1()),
    2: _table_2,
    3: lambda: _means_table(3, "Table 3 of the paper: averages recomputed", printed_scores.table_3()),
    4: _table_4,
    5: lambda: _totals_table(5, "Table 5 of the paper: totals recomputed", printed_scores.table_5()),
    7: lambda: _means_table(7, "Table 7 of the paper: means recomputed", printed_scores.table_7()),
}
