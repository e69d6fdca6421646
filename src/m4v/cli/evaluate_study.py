"""`m4v evaluate study build` and `study analyse`: a blind user study as a static page, and what its answers say."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.cli.console import result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.tables import print_table
from m4v.cli.verb import Action
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.evaluation.user_study.statistics import Criterion


@dataclass(frozen=True, kw_only=True)
class StudyBuildArguments:
    """Write a page on which people rank videos without knowing who made them.

    Attributes:
        out: Folder for raters; the key that tells the methods goes to OUT-key, which is not for them.
        videos: NAME=FOLDER per method, each with one captioned video per prompt (metadata.jsonl, or .txt files).
        mode: rank: all methods of a prompt at once, as in the paper; pairwise: two at a time, ties allowed.
        criteria: What is judged.
        title: Heading of the page.
        seed: Of the order of videos and questions.
    """

    out: Annotated[Path, tyro.conf.Positional]
    videos: tuple[str, ...]
    mode: Literal["rank", "pairwise"] = "rank"
    criteria: tuple[str, ...] = ("aesthetic quality", "motion smoothness", "semantic coherence")
    title: str = "Which video is better?"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StudyAnalyseArguments:
    """Mean ranks, win rates, strengths and agreement from answer files, with 95 % intervals.

    Attributes:
        answers: Answer files, or folders of them.
        key: key.json that study build wrote. Leave it out with --paper.
        paper: Print the mean ranks of the paper's own study instead, from the intact rows of its table.
        keep_flagged: Also count answers that look careless; by default they are named and left out.
        samples: Bootstrap samples.
        json: Also write everything as JSON, to a file or, with - or no value, to standard output.
    """

    answers: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    key: Path | None = None
    paper: bool = False
    keep_flagged: bool = False
    samples: int = 1000
    json: str | None = None


def study_build(arguments: StudyBuildArguments) -> None:
    """Build the page.

    Raises:
        UserError: for input that cannot be used.
    """
    from m4v.evaluation.user_study.build import build, find_videos
    from m4v.evaluation.user_study.study import Study

    folders: dict[str, Path] = {}
    for text in arguments.videos:
        name, equals, folder = text.partition("=")
        if not equals or not name or name in folders:
            raise UserError(f"--videos has {text!r}; expected NAME=FOLDER, each name once.")
        folders[name] = Path(folder)
    prompts, videos = find_videos(folders)
    study = Study.plan(tuple(folders), prompts, mode=arguments.mode, criteria=arguments.criteria, seed=arguments.seed)
    key = build(study, videos, arguments.out, arguments.title)
    say(f"{len(study.questions)} questions by {len(study.criteria)} criteria. Keep {key} from raters.")
    result(str(arguments.out / "index.html"))


def study_analyse(arguments: StudyAnalyseArguments) -> None:
    """Analyse answers.

    Raises:
        UserError: if a file cannot be used, or nothing is left to count.
    """
    require_json_target(arguments.json)
    if arguments.paper:
        _paper(arguments)
        return
    if arguments.key is None or not arguments.answers:
        raise UserError("Give answer files and the key: m4v evaluate study analyse ANSWERS... --key OUT-key/key.json.")
    if arguments.samples < 100:
        raise UserError(f"--samples is {arguments.samples}; use 100 or more for intervals.")
    import numpy as np

    from m4v.evaluation.user_study.answers import read_answers
    from m4v.evaluation.user_study.statistics import analyse
    from m4v.evaluation.user_study.study import Study

    study = Study.read_key(arguments.key)
    read = [read_answers(path, study) for path in _files(arguments.answers)]
    raters = [each.rater for each in read]
    if len(set(raters)) < len(raters):
        twice = next(rater for rater in raters if raters.count(rater) > 1)
        raise UserError(f"Rater {twice} is there twice; keep one file of each.")
    flagged = [each for each in read if each.flags]
    for each in flagged:
        say(f"{each.rater}: {'; '.join(each.flags)}{'' if arguments.keep_flagged else ' (left out)'}")
    used = read if arguments.keep_flagged else [each for each in read if not each.flags]
    if not used:
        raise UserError(f"All {len(read)} answer files are flagged; look at them, or count them with --keep-flagged.")
    ranks = np.stack([each.ranks for each in used])
    found = {
        criterion: analyse(ranks[:, number], num_samples=arguments.samples)
        for number, criterion in enumerate(study.criteria)
    }
    report: dict[str, Any] = {
        "study": study.identity,
        "raters": len(used),
        "flagged": {each.rater: each.flags for each in flagged},
        "criteria": {name: value.to_plain(study.methods) for name, value in found.items()},
    }
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.json == STANDARD_OUTPUT:
        return
    for name, value in found.items():
        _print_criterion(
            f"{name}: {len(used)} raters, agreement (Kendall's W) {value.agreement:.2f}", study.methods, value
        )


def _files(places: tuple[Path, ...]) -> list[Path]:
    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    if not files:
        raise UserError(f"There are no answer files (*.json) in {', '.join(map(str, places))}.")
    return files


def _print_criterion(title: str, methods: tuple[str, ...], found: "Criterion") -> None:
    low, high = found.intervals["mean_rank"]
    weak, strong = found.intervals["strength"]
    rows = [
        (
            method,
            f"{found.mean_rank[i]:.2f} [{low[i]:.2f}-{high[i]:.2f}]",
            f"{found.strength[i]:+.2f} [{weak[i]:+.2f} {strong[i]:+.2f}]",
            *("" if i == j else f"{100 * found.win_rate[i, j]:.0f} %" for j in range(len(methods))),
        )
        for i, method in enumerate(methods)
    ]
    print_table(title, ("", "mean rank", "strength", *(f"wins over {method}" for method in methods)), rows)


def _paper(arguments: StudyAnalyseArguments) -> None:
    from m4v.evaluation.user_study.paper_table import METHODS, paper_ranks

    found = paper_ranks()
    if arguments.json is not None:
        plain = {name: {"prompts": each.num_prompts, "mean_ranks": each.mean_ranks} for name, each in found.items()}
        write_json(arguments.json, plain)
    if arguments.json == STANDARD_OUTPUT:
        return
    rows = [
        (f"{name} ({each.num_prompts} intact prompts)", *(f"{each.mean_ranks[letter]:.2f}" for letter in METHODS))
        for name, each in found.items()
    ]
    print_table("The paper's user study, mean ranks (1 the best) from intact rows of B.3", ("", *METHODS), rows)
    result("Letters are not explained; B = M4V and C = HunyuanVideo is the one reading that fits Sec. 4.3.")


STUDY = {
    "build": Action(StudyBuildArguments, study_build),
    "analyse": Action(StudyAnalyseArguments, study_analyse),
}
