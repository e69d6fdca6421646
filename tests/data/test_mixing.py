"""The image:video mixture: exact, repeatable, and resumable at any step."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.data.mixing import Mixture

SEEDS = st.integers(0, 2**62)


@given(SEEDS, st.integers(0, 10**9))
def test_every_window_of_nine_holds_one_image_batch(seed: int, window: int) -> None:
    kinds = Counter(Mixture().at(seed, 9 * window + place).kind for place in range(9))
    assert kinds == {"image": 1, "video": 8}


def test_nine_hundred_batches() -> None:
    kinds = Counter(Mixture().at(3, step).kind for step in range(900))
    assert kinds == {"image": 100, "video": 800}


@given(SEEDS, st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), st.integers(0, 200))
def test_kind_steps_count_earlier_batches_of_the_kind(seed: int, counts: list[int], num_steps: int) -> None:
    mixture = Mixture(parts=tuple((f"kind{index}", count) for index, count in enumerate(counts)))
    seen: Counter[str] = Counter()
    for step in range(num_steps):
        kind, kind_step = mixture.at(seed, step)
        assert kind_step == seen[kind]
        seen[kind] += 1
        if (step + 1) % mixture.window == 0:
            windows = (step + 1) // mixture.window
            assert [seen[f"kind{index}"] for index in range(len(counts))] == [windows * count for count in counts]


def test_the_place_of_the_image_moves_and_depends_on_the_seed() -> None:
    def places(seed: int) -> list[int]:
        return [place % 9 for place in range(900) if Mixture().at(seed, place).kind == "image"]

    frequency = Counter(places(0))
    assert set(frequency) == set(range(9))
    assert max(frequency.values()) < 30  # 11 of 100 expected for each place
    assert places(0) != places(1)
    assert places(0) == places(0)


def test_one_kind_only() -> None:
    images = Mixture(parts=(("image", 1), ("video", 0)))
    assert [images.at(0, step) for step in range(3)] == [("image", 0), ("image", 1), ("image", 2)]


@pytest.mark.parametrize("parts", [(), (("image", 0),), (("image", -1), ("video", 9)), (("a", 1), ("a", 2))])
def test_impossible_mixtures_are_refused(parts: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(UserError, match="mixture"):
        Mixture(parts=parts)
