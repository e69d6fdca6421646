"""Questions about training, answered at equal steps: `python benchmarks/training_studies.py conversion --size gpu`.

Each writes results.json, results.png and results.md (rows for docs/log.md) into its folder, and goes on where it
stopped.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from m4v.core.errors import UserError
from m4v.studies.training_questions import SIZES, questions
from m4v.studies.training_study import run_study
from m4v.training.progress import Progress


class _Printer:
    """Prints messages at once, and counts at most twice a minute."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def report(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.message:
            sys.stderr.write(f"{progress.message}\n")
        elif now - self.last > 30:
            self.last = now
            loss = f", loss {progress.values['loss']:.4g}" if "loss" in progress.values else ""
            sys.stderr.write(f"{progress.phase}: {progress.done} of {progress.total}{loss}\n")
        sys.stderr.flush()


def main() -> int:
    """Run one study, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=[*questions(), "all"])
    parser.add_argument("--size", choices=list(SIZES), default="xs")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of all studies")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--step-scale", type=float, default=1.0, help="multiplies all step counts")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    chosen = questions() if arguments.question == "all" else [arguments.question]
    for question in chosen:
        folder = arguments.out / f"{question}-{arguments.size}"
        start = time.monotonic()
        try:
            run_study(
                question,
                arguments.size,
                folder,
                device=arguments.device,
                step_scale=arguments.step_scale,
                on_progress=_Printer().report,
            )
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        sys.stdout.write((folder / "results.md").read_text(encoding="utf-8"))
        sys.stdout.write(f"\n{time.monotonic() - start:.0f} s; {folder / 'results.json'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
