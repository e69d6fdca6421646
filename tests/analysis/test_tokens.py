"""Counts of tokens against figures worked out elsewhere."""

from m4v.analysis.tokens import tokens_by_unit, unit_layout
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.models.denoiser.config import PRESETS

PAPER_SIZE = Compression(time=8, space=8).latent_shape(VideoShape(num_frames=241, height=768, width=1280))


def test_tokens_of_the_paper_s_longest_video() -> None:
    """Rows of the Pyramid-Flow table at 768p: noisy + history + 128 text tokens."""
    tokens = tokens_by_unit(PRESETS["pyramid-2b"], PAPER_SIZE, 128)
    assert tokens[0] == [368, 1088, 3968]
    assert tokens[7] == [240 + 1680 + 128, 960 + 2400 + 128, 9968]
    assert tokens[30] == [240 + 7200 + 128, 960 + 7920 + 128, 15488]
    assert [sum(column) for column in zip(*tokens, strict=True)] == [123_008, 166_928, 363_488]


def test_a_window_keeps_only_the_last_units() -> None:
    layout = unit_layout(PRESETS["toybox-xs"], LatentShape(num_units=9, height=8, width=8), 8, 2, 0, window=2)
    assert [frame.num_tokens for frame in layout.frames] == [16, 64, 64]
