"""Seeds and generators: fixed values (they name the data and noise of every run), independence, no global state."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.generators import generator_for
from m4v.core.seeds import fold_seed

labels = st.lists(
    st.one_of(st.integers(-5, 5), st.text("/:\\ab1", max_size=4), st.sampled_from(["int:1", "str:a"])), max_size=4
)


def test_values_never_change() -> None:
    assert fold_seed(0) == 4246866556266386882
    assert fold_seed(0, "noise", 3) == 8085812603969780074
    assert fold_seed(7, "train", 41, 2) == 1049584157844093565
    assert fold_seed(2**63, "toybox") == 4105955918690025817


@given(st.integers(0, 3), labels, st.integers(0, 3), labels)
def test_different_labels_give_different_seeds(
    seed: int, first: list[int | str], other_seed: int, second: list[int | str]
) -> None:
    same = (seed, first) == (other_seed, second) and [type(a) for a in first] == [type(b) for b in second]
    assert (fold_seed(seed, *first) == fold_seed(other_seed, *second)) == same


def test_a_separator_inside_a_label_separates_nothing() -> None:
    sequences = [("a", "b"), ("a/str:b",), ("a//str:b",), ("a/", "b"), ("a", "/b"), ("a/b",), ("/",), ("//",), ("", "")]
    assert len({fold_seed(0, *labels) for labels in sequences}) == len(sequences)
    assert fold_seed(0, "1") != fold_seed(0, 1)


def test_numpy_counters_count_like_python_ones() -> None:
    assert fold_seed(np.int64(3), "clip", np.int32(5)) == fold_seed(3, "clip", 5)  # type: ignore[arg-type]


def test_seeds_have_63_bits_and_use_them_all() -> None:
    seeds = [fold_seed(0, index) for index in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in seeds) / 2000
        assert 0.4 < share < 0.6, (bit, share)


def test_generators_repeat_and_differ_by_purpose() -> None:
    first = torch.randn(4, generator=generator_for(1, "noise", 0))
    assert torch.equal(first, torch.randn(4, generator=generator_for(1, "noise", 0)))
    assert not torch.equal(first, torch.randn(4, generator=generator_for(1, "noise", 1)))


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    torch.randn(4, generator=generator_for(1, "noise"))
    assert torch.equal(before, torch.random.get_rng_state())
