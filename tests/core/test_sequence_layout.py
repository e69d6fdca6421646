"""Sequence layouts: where frames start and where the seam between prefix and current part is."""

from hypothesis import given
from hypothesis import strategies as st

from m4v.core.sequence_layout import FrameGrid, SequenceLayout

grids = st.builds(FrameGrid, level=st.integers(0, 3), height=st.integers(1, 6), width=st.integers(1, 6))


@given(st.lists(grids, min_size=1, max_size=6), st.integers(0, 9), st.data())
def test_counts_are_those_of_a_plain_walk(frames: list[FrameGrid], num_text: int, data: st.DataObject) -> None:
    noisy = data.draw(st.integers(1, len(frames)))
    layout = SequenceLayout(tuple(frames), num_text, noisy)
    start = 0
    for number, frame in enumerate(frames):
        assert layout.frame_starts[number] == start
        if number == len(frames) - noisy:
            assert layout.num_history_tokens == start
        start += frame.height * frame.width
    assert layout.frame_starts[len(frames)] == layout.num_video_tokens == start
    assert layout.num_history_frames + noisy == len(frames)


def test_equal_layouts_share_a_cache_entry() -> None:
    first = SequenceLayout((FrameGrid(0, 2, 3),), 4)
    second = SequenceLayout((FrameGrid(0, 2, 3),), 4)
    assert first.num_video_tokens == 6  # fills the cached property of one of them
    assert first == second
    assert hash(first) == hash(second)
    assert first != SequenceLayout((FrameGrid(1, 2, 3),), 4)
