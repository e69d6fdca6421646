"""The before-and-after picture shows every video of every prompt, and bare places where a model knew no word."""

from collections.abc import Iterator

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.evaluation.comparison import ComparedPrompt, comparison_sheet, make_videos

SIZE = 16


def video(colour: tuple[int, int, int], size: int = SIZE) -> np.ndarray:
    return np.full((9, size, size, 3), colour, np.uint8)


class Pipeline:
    """Answers with a grey that tells the seed; knows one prompt."""

    def stream(self, prompt: str, *, seed: int, decode_last: bool) -> Iterator[np.ndarray]:
        if prompt != "known":
            raise UserError("no word of it")
        assert decode_last
        yield video((seed,) * 3)[None, :1]
        yield video((seed + 1,) * 3)[None, 1:]


def test_units_are_joined_and_a_prompt_without_known_words_gives_none() -> None:
    done: list[tuple[int, int]] = []
    known, strange = make_videos(
        Pipeline(), ["known", "strange"], seed=7, on_progress=lambda now, total: done.append((now, total))
    )
    assert known is not None
    assert known.shape == (9, SIZE, SIZE, 3)
    assert [int(frame.max()) for frame in known[:3]] == [7, 8, 8]
    assert strange is None
    assert done == [(1, 2), (2, 2)]


def test_every_video_is_shown_in_order_at_one_size() -> None:
    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    rows = [
        ComparedPrompt("one", {"before": video(red), "after": video(green, 2 * SIZE)}),
        ComparedPrompt("two", {"before": None, "after": video(blue)}),
    ]
    sheet = comparison_sheet(rows)
    tops = []
    for colour in (red, green, blue):
        found = np.argwhere((sheet == colour).all(axis=-1))
        assert len(found) == 8 * SIZE * SIZE
        tops.append(int(found[:, 0].min()))
    assert tops == sorted(tops)
    assert len(np.argwhere((sheet == 0).all(axis=-1))) >= 8 * SIZE * SIZE


def test_two_models_that_know_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="Neither model"):
        comparison_sheet([ComparedPrompt("one", {"before": None, "after": None})])
