"""Prefetching: the order of the steps, errors where they belong, and no thread left behind."""

import itertools
import threading
import time

import pytest

from m4v.core.errors import UserError
from m4v.data.loader import Prefetcher


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("m4v-prefetch")]


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_steps(num_threads: int) -> None:
    def slow(step: int) -> int:
        time.sleep(0.001 * ((step * 7) % 5))  # later steps often finish first
        return step * step

    with Prefetcher(slow, range(40), num_threads=num_threads) as results:
        assert list(results) == [step * step for step in range(40)]
    assert prefetch_threads() == []


def test_no_more_than_depth_steps_are_ahead() -> None:
    started: list[int] = []
    with Prefetcher(lambda step: started.append(step) or step, itertools.count(), num_threads=2, depth=3) as results:
        for expected in range(10):
            assert next(results) == expected
            assert len(started) <= expected + 3
    assert prefetch_threads() == []


def test_an_error_comes_where_its_result_would_have() -> None:
    def fails_at_three(step: int) -> int:
        if step == 3:
            raise RuntimeError("step 3 broke")
        return step

    with Prefetcher(fails_at_three, range(10)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RuntimeError, match="step 3 broke"):
            next(results)
    assert prefetch_threads() == []


def test_leaving_early_stops_an_endless_stream() -> None:
    with Prefetcher(lambda step: step, itertools.count()) as results:
        assert next(results) == 0
    assert prefetch_threads() == []


def test_an_interruption_leaves_no_thread() -> None:
    def interrupted() -> None:
        with Prefetcher(lambda step: step, itertools.count()) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert prefetch_threads() == []


def test_work_really_overlaps() -> None:
    barrier = threading.Barrier(3, timeout=5)  # passes only if three steps are under way at once
    with Prefetcher(lambda step: barrier.wait() >= 0, range(6), num_threads=3) as results:
        assert list(results) == [True] * 6


@pytest.mark.parametrize("settings", [{"num_threads": 0}, {"depth": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        Prefetcher(lambda step: step, range(3), **settings)
