"""History layouts of Eq. 4 and 7, token counts of the released sizes, window and merging."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.flow.history import history_clips, history_levels
from m4v.flow.pyramid import latent_pyramid, split_frames

LAYOUTS = {
    (0, 0): (), (0, 1): (), (0, 2): (),
    (1, 0): (0,), (1, 1): (1,), (1, 2): (2,),
    (2, 0): (0, 0), (2, 1): (0, 1), (2, 2): (1, 2),
    (3, 0): (0, 0, 0), (3, 1): (0, 0, 1), (3, 2): (0, 1, 2),
    (4, 0): (0, 0, 0, 0), (4, 1): (0, 0, 0, 1), (4, 2): (0, 0, 1, 2),
    (5, 0): (0, 0, 0, 0, 0), (5, 1): (0, 0, 0, 0, 1), (5, 2): (0, 0, 0, 1, 2),
}  # fmt: skip

# History tokens (levels 0, 1, 2) of a unit, and all tokens at level 2 with 128 of text, at 1280 x 768 pixels.
TOKENS_768P = {
    0: (0, 0, 0, 3968),
    1: (240, 960, 3840, 7808),
    2: (480, 1200, 4800, 8768),
    3: (720, 1440, 5040, 9008),
    5: (1200, 1920, 5520, 9488),
    7: (1680, 2400, 6000, 9968),
    15: (3600, 4320, 7920, 11888),
    30: (7200, 7920, 11520, 15488),
}
TOKENS_PER_FRAME_768P = (240, 960, 3840)


@pytest.mark.parametrize(("unit", "level"), LAYOUTS)
def test_layouts(unit: int, level: int) -> None:
    assert history_levels(unit, level) == LAYOUTS[unit, level]


@pytest.mark.parametrize("unit", TOKENS_768P)
def test_token_counts_at_768p(unit: int) -> None:
    counts = [sum(TOKENS_PER_FRAME_768P[frame] for frame in history_levels(unit, level)) for level in range(3)]
    assert (*counts, counts[2] + TOKENS_PER_FRAME_768P[2] + 128) == TOKENS_768P[unit]


@given(unit=st.integers(0, 40), level=st.integers(0, 3), window=st.integers(1, 45))
def test_a_window_keeps_the_newest_frames(unit: int, level: int, window: int) -> None:
    assert history_levels(unit, level, window=window) == history_levels(unit, level)[-window:]


def test_literal_eq_7_keeps_the_second_frame_uncompressed() -> None:
    assert history_levels(5, 2, halvings=(0, 0, 1)) == (1, 1, 1, 2, 2)
    assert history_levels(5, 1, halvings=(0, 0, 1)) == (0, 0, 0, 1, 1)
    assert history_levels(5, 2, halvings=(0, 1, 2)) == history_levels(5, 2)


@pytest.mark.parametrize(("window", "halvings"), [(0, None), (-1, None), (None, ()), (None, (2, 1)), (None, (-1,))])
def test_bad_settings_are_rejected(window: int | None, halvings: tuple[int, ...] | None) -> None:
    with pytest.raises(UserError, match=r"window|history_halvings"):
        history_levels(4, 2, window=window, halvings=halvings)


def frame_pyramids(num_frames: int) -> list[list[torch.Tensor]]:
    latents = torch.randn(2, 3, num_frames, 8, 16, generator=torch.Generator().manual_seed(0))
    return split_frames(latent_pyramid(latents, 3))


def test_unit_five_at_the_last_level() -> None:
    frames = frame_pyramids(5)
    clips = history_clips(frames, level=2)
    assert [(clip.level, clip.latents.shape[2], clip.latents.shape[-1]) for clip in clips] == [
        (0, 3, 4),
        (1, 1, 8),
        (2, 1, 16),
    ]
    for index, frame in enumerate(frames[:3]):
        torch.testing.assert_close(clips[0].latents[:, :, index], frame[0], rtol=0, atol=0)
    torch.testing.assert_close(clips[1].latents[:, :, 0], frames[3][1], rtol=0, atol=0)
    torch.testing.assert_close(clips[2].latents[:, :, 0], frames[4][2], rtol=0, atol=0)


def test_clips_follow_levels_everywhere() -> None:
    for unit, level in LAYOUTS:
        clips = history_clips(frame_pyramids(unit) if unit else [], level)
        spread = tuple(clip.level for clip in clips for _ in range(clip.latents.shape[2]))
        assert spread == LAYOUTS[unit, level]
        assert all(clip.latents.shape[-2:] == (2 << clip.level, 4 << clip.level) for clip in clips)
        assert len({clip.level for clip in clips}) == len(clips)


def test_windowed_clips_are_the_newest_frames() -> None:
    frames = frame_pyramids(5)
    clips = history_clips(frames, level=1, window=2)
    assert [(clip.level, clip.latents.shape[2]) for clip in clips] == [(0, 1), (1, 1)]
    torch.testing.assert_close(clips[0].latents[:, :, 0], frames[3][0], rtol=0, atol=0)
    torch.testing.assert_close(clips[1].latents[:, :, 0], frames[4][1], rtol=0, atol=0)
