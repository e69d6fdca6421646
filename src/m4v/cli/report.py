"""`m4v report RUN`: everything about a training run as one HTML file that opens offline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m4v.cli.console import result
from m4v.cli.output_paths import require_writable
from m4v.cli.verb import Action


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Gather curves, samples, scores and settings of a run in one HTML file.

    Attributes:
        run: Run folder of m4v train.
        out: File to write. Default: report.html in the run folder.
        scores: JSON files of m4v evaluate or m4v bench to show as well.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    scores: tuple[Path, ...] = ()


def report(arguments: ReportArguments) -> None:
    """Write the report.

    Raises:
        UserError: if the folder is no run, or the file cannot be written.
    """
    out = arguments.out or arguments.run / "report.html"
    require_writable(out, "--out")
    from m4v.studies.run_report import write_report

    result(str(write_report(arguments.run, out, arguments.scores)))


VERB = Action(ReportArguments, report)
