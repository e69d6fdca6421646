from dataclasses import replace

import numpy as np
import pytest
import torch

from m4v.core.errors import UserError
from m4v.data.pixels import to_pixels
from m4v.data.source import UnusableClip
from m4v.training.clip_pool import load_clips, stack_clips
from m4v.training.progress import ignore_progress
from m4v.training.sources import PartOfSource, PooledSource
from tests.training.conftest import moving_square


class Squares:
    """Ten clips, of which some are unusable."""

    def __init__(self, bad=()):
        self.bad = bad

    def __len__(self):
        return 10

    def clip(self, index):
        if index in self.bad:
            raise UnusableClip("unreadable file", f"{index}.mp4")
        return moving_square(index)


def test_order_does_not_depend_on_threads():
    one, four = (
        load_clips(Squares(), 8, num_threads=threads, phase="read", on_progress=ignore_progress) for threads in (1, 4)
    )
    assert torch.equal(one.frames, four.frames)
    assert one.captions == four.captions
    assert len(one) == 8
    np.testing.assert_array_equal(one.frames[5].numpy(), moving_square(5).frames)


def test_unusable_clips_are_counted_and_named():
    reports = []
    pool = load_clips(Squares(bad=(2, 7)), 10, num_threads=2, phase="read", on_progress=reports.append)
    assert len(pool) == len(pool.frames) == 8
    np.testing.assert_array_equal(pool.frames[2].numpy(), moving_square(3).frames)
    (message,) = [report.message for report in reports if report.message]
    assert "2 of 10" in message
    assert "2 x unreadable file" in message
    assert "7.mp4" in message


def test_nothing_usable_is_an_error_with_reasons():
    with pytest.raises(UserError, match="unreadable file"):
        load_clips(Squares(bad=range(10)), 10, num_threads=1, phase="read", on_progress=ignore_progress)


def test_clips_of_another_size_are_named():
    small = replace(moving_square(1), frames=moving_square(1).frames[:5], source="short.mp4")
    with pytest.raises(UserError, match=r"short\.mp4"):
        stack_clips([moving_square(0), small])


def test_pixels_span_minus_one_to_one():
    frames = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2, 1).expand(1, 1, 1, 2, 3)
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 1, 1, 2)
    assert pixels.flatten().unique().tolist() == [-1.0, 1.0]


def test_a_pool_is_a_source_again(pool):
    source = PartOfSource(PooledSource(pool), range(1, 3))
    assert len(source) == 2
    np.testing.assert_array_equal(source.clip(0).frames, moving_square(1).frames)
    assert source.clip(1).captions == moving_square(2).captions
