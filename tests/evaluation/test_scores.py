"""Shares, intervals and confusion tables against counts made by hand."""

import pytest

from m4v.evaluation.scores import AXES, NOTHING, JudgedClip, confusion, score, score_wrong_captions, wilson_interval


def clip(expected: str, found: str, motion_found: str | None = "left") -> JudgedClip:
    return JudgedClip(
        expected={"colour": expected, "object": "ball", "motion": "left"},
        found={"colour": found, "object": "ball", "motion": motion_found},
    )


CLIPS = [clip("red", "red"), clip("red", "blue"), clip("blue", "blue"), clip("blue", "blue", None)]


def test_shares_are_counted_per_axis_and_together():
    scores = score(CLIPS)
    assert (scores.colour, scores.object, scores.motion, scores.all) == (0.75, 1.0, 0.75, 0.5)
    assert scores.num_clips == {"colour": 4, "object": 4, "motion": 4}


def test_unstated_axes_do_not_count():
    unstated = JudgedClip(
        expected={"colour": "red", "object": "ball", "motion": None},
        found={"colour": "red", "object": "ball", "motion": "left"},
    )
    scores = score([unstated, CLIPS[1]])
    assert scores.motion == 1.0
    assert scores.num_clips["motion"] == 1
    assert scores.all == 0.5


def test_wrong_captions_average_over_all_other_clips():
    scores = score_wrong_captions(CLIPS)
    # Captions red, red, blue, blue beside the other clips' red, blue, blue, blue.
    assert scores.colour == pytest.approx((0 / 3 + 1 / 3 + 2 / 3 + 2 / 3) / 4)
    assert scores.object == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962), (97, 100, 0.9155, 0.9897)],
)
def test_wilson_interval_against_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=2e-4)


def test_no_trials_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_confusion_counts_pairs():
    table = confusion([*CLIPS, clip("red", "green")], "colour")
    assert table.rows == ("red", "blue")
    assert table.columns == ("red", "blue", "green")
    assert table.counts == ((1, 1, 1), (0, 2, 0))
    assert table.to_json() == {"red": {"red": 1, "blue": 1, "green": 1}, "blue": {"blue": 2}}


def test_confusion_names_clips_without_an_object():
    table = confusion(CLIPS, "motion")
    assert table.columns == ("left", NOTHING)
    assert table.counts == ((3, 1),)


def test_json_keys_are_stable():
    report = score(CLIPS).to_json()
    assert {"colour", "object", "motion", "intervals"} <= set(report)
    assert set(report["intervals"]) == set(AXES)
    assert report["intervals"]["object"] == [pytest.approx(0.5101, abs=1e-3), 1.0]
