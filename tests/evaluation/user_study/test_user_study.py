"""A study from its plan to its numbers."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.evaluation.user_study.answers import ANSWERS_FORMAT, checksum, read_answers
from m4v.evaluation.user_study.build import build, find_videos
from m4v.evaluation.user_study.paper_table import paper_ranks
from m4v.evaluation.user_study.statistics import agreement, analyse, strengths
from m4v.evaluation.user_study.study import Study

PROMPTS = tuple(f"prompt {number}" for number in range(8))
METHODS = ("ours", "theirs", "third")


def _study(**changes: Any) -> Study:
    return Study.plan(METHODS, PROMPTS, **changes)


def _answers(study: Study, rater: str, quality: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A rater who ranks by known qualities."""
    answers = []
    for number, question in enumerate(study.questions):
        values = [quality[study.methods[method]] for method in question.methods]
        ranks = [1 + sum(other > value for other in values) for value in values]
        answers += [
            {"question": number, "criterion": criterion, "ranks": ranks, "seconds": 9.0} for criterion in study.criteria
        ]
    content = {"format": ANSWERS_FORMAT, "study": study.identity, "rater": rater, "consent": True, "answers": answers}
    content |= changes
    return {**content, "checksum": checksum(study.identity, rater, content["answers"])}


def _saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_places_are_shuffled_and_depend_on_the_seed_alone() -> None:
    study = _study()
    assert study == _study()
    assert study.identity != _study(seed=1).identity
    assert len({question.methods for question in study.questions}) > 1
    assert sorted(question.prompt for question in study.questions) == sorted(PROMPTS)
    assert tuple(question.prompt for question in study.questions) != PROMPTS
    assert len(_study(mode="pairwise").questions) == 3 * len(PROMPTS)
    names = [study.file_name(number, place) for number in range(8) for place in range(3)]
    assert len(set(names)) == 24


def test_methods_are_compared_as_the_raters_saw_them(tmp_path: Path) -> None:
    study = _study()
    read = read_answers(_saved(tmp_path, _answers(study, "r", {"ours": 3, "theirs": 2, "third": 1})), study)
    assert read.flags == ()
    assert (read.ranks == np.array([1, 2, 3])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "0" * 16}, "expected"),
        ({"consent": False}, "without consent"),
        ({"format": "x"}, "not an answer file"),
        ({"rater": "somebody else"}, "edited"),
    ],
)
def test_answers_that_must_not_count_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    study = _study()
    content = {**_answers(study, "r", dict.fromkeys(METHODS, 1.0)), **change}
    with pytest.raises(UserError, match=message):
        read_answers(_saved(tmp_path, content), study)


def test_truncated_edited_and_impossible_answers_are_refused(tmp_path: Path) -> None:
    study = _study()
    whole = _answers(study, "r", {"ours": 3, "theirs": 2, "third": 1})
    text = json.dumps(whole)
    with pytest.raises(UserError, match="cut off"):
        read_answers(_saved(tmp_path, text[: len(text) // 2]), study)
    edited = json.loads(text)
    edited["answers"][4]["ranks"].reverse()
    with pytest.raises(UserError, match="edited"):
        read_answers(_saved(tmp_path, edited), study)
    for ranks in ([1, 2], [0, 1, 2], [1, 2, 4]):
        bad = [{**whole["answers"][0], "ranks": ranks}]
        with pytest.raises(UserError, match="cannot be"):
            read_answers(_saved(tmp_path, _answers(study, "r", dict.fromkeys(METHODS, 1.0), answers=bad)), study)
    twice = whole["answers"][:1] * 2
    with pytest.raises(UserError, match="twice"):
        read_answers(_saved(tmp_path, _answers(study, "r", dict.fromkeys(METHODS, 1.0), answers=twice)), study)


def test_careless_answers_are_flagged(tmp_path: Path) -> None:
    study = _study()
    plain = _answers(study, "r", {"ours": 3, "theirs": 2, "third": 1})["answers"]
    cases = {
        "incomplete": plain[:-1],
        "same places": [{**each, "ranks": [1, 2, 3]} for each in plain],
        "ties": [{**each, "ranks": [1, 1, 1]} for each in plain],
        "hasty": [{**each, "seconds": 0.5} for each in plain],
    }
    for word, answers in cases.items():
        content = _answers(study, "r", dict.fromkeys(METHODS, 1.0), answers=answers)
        read = read_answers(_saved(tmp_path, content), study)
        assert any(word in flag for flag in read.flags), (word, read.flags)


def test_known_preferences_come_out() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    truth = np.array([1.0, 0.0, -1.0])
    # Sums of logistic noise: the model that Bradley-Terry assumes, by its random-utility form (Gumbel).
    scores = truth + rng.gumbel(size=(40, 50, 3))
    ranks = (-scores).argsort(-1).argsort(-1) + 1.0
    found = analyse(ranks, num_samples=200)
    assert found.strength == pytest.approx(truth, abs=0.1)
    low, high = found.intervals["strength"]
    assert ((low < truth) & (truth < high)).all()
    assert found.win_rate[0, 1] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)
    both = found.win_rate + found.win_rate.T
    assert both[~np.eye(3, dtype=bool)] == pytest.approx(np.ones(6))
    # Complete rankings: the mean win rate follows from the mean rank.
    mean_wins = np.nanmean(found.win_rate, axis=1)
    assert mean_wins == pytest.approx((3 - found.mean_rank) / 2)


def test_ties_count_half_and_nobody_wins() -> None:
    found = analyse(np.ones((3, 4, 2)), num_samples=100)
    assert found.win_rate[0, 1] == found.win_rate[1, 0] == 0.5
    assert found.strength == pytest.approx([0, 0])


def test_a_method_that_never_loses_has_a_finite_strength() -> None:
    wins = np.array([[0.0, 9.0], [0.0, 0.0]])
    assert np.isfinite(strengths(wins, wins + wins.T)).all()


def test_agreement_is_1_for_equal_and_0_for_balanced_rankings() -> None:
    same = np.broadcast_to(np.array([2.0, 1.0, 3.0]), (5, 4, 3))
    assert agreement(same) == pytest.approx(1)
    every = np.array(list(permutations([1.0, 2.0, 3.0])))[:, None]
    assert agreement(every) == pytest.approx(0)
    assert np.isnan(agreement(same[:1]))


def test_nothing_to_analyse_is_an_error() -> None:
    with pytest.raises(UserError, match="no answer"):
        analyse(np.full((2, 3, 2), np.nan))


def test_the_papers_mean_ranks_follow_from_its_intact_rows() -> None:
    found = paper_ranks()
    assert {name: each.num_prompts for name, each in found.items()} == {"aesthetic": 41, "motion": 32, "semantic": 32}
    expected = {
        "aesthetic": (2.21, 1.77, 3.03, 4.25, 3.74),
        "motion": (3.76, 2.36, 1.79, 2.92, 4.17),
        "semantic": (3.05, 2.34, 1.73, 3.74, 4.14),
    }
    for name, ranks in expected.items():
        assert tuple(found[name].mean_ranks.values()) == pytest.approx(ranks, abs=0.006)
    wins = [each.mean_win_rate("B") for each in found.values()]
    assert wins == pytest.approx((0.807, 0.660, 0.665), abs=0.001)


def _folders(tmp_path: Path) -> dict[str, Path]:
    folders = {}
    for method in METHODS:
        folder = folders[method] = tmp_path / method
        folder.mkdir()
        for number, prompt in enumerate(PROMPTS):
            (folder / f"{number}.mp4").write_bytes(f"{method} {prompt}".encode())
            (folder / f"{number}.txt").write_text(prompt)
    return folders


def test_the_page_names_no_method_and_the_key_names_all(tmp_path: Path) -> None:
    folders = _folders(tmp_path)
    prompts, videos = find_videos(folders)
    assert prompts == PROMPTS
    study = Study.plan(tuple(folders), prompts)
    key = build(study, videos, tmp_path / "out", "A </script> title")
    page = (tmp_path / "out" / "index.html").read_text()
    assert not any(method in page for method in METHODS)
    assert "A <\\/script> title" in page
    assert not list((tmp_path / "out").rglob("key.json"))
    assert Study.read_key(key) == study
    for number, question in enumerate(study.questions):
        for place, method in enumerate(question.methods):
            content = (tmp_path / "out" / "media" / study.file_name(number, place)).read_text()
            assert content == f"{METHODS[method]} {question.prompt}"
    changed = json.loads(key.read_text())
    changed["methods"].reverse()
    key.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="changed"):
        Study.read_key(key)


def test_videos_without_a_partner_are_an_error(tmp_path: Path) -> None:
    folders = _folders(tmp_path)
    (folders["third"] / "3.txt").write_text("something else")
    with pytest.raises(UserError, match=r"third lacks 1.*'prompt 3'"):
        find_videos(folders)
    (folders["third"] / "3.txt").write_text("prompt 2")
    with pytest.raises(UserError, match="two videos"):
        find_videos(folders)
