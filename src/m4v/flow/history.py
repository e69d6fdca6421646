"""Which earlier latent frames condition a unit, and at which pyramid level each is kept (Eq. 4 and 7)."""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.flow.config import check_halvings


def history_levels(
    unit: int, level: int, window: int | None = None, halvings: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Choose the pyramid level of every history frame, oldest first.

    At the last of three levels this is Eq. 4: the previous frame at full size, the one before at half, all older at a
    quarter per side.

    Args:
        unit: Index of the unit being denoised, from 0; it has `unit` frames before it.
        level: Level of the noisy frame, 0 = coarsest.
        window: Keep only this many most recent frames, at least 1; None keeps all.
        halvings: Levels below the noisy frame for the frames 1, 2, ... units back, the last entry serving all older
            ones; None: one more per unit back. Levels never go below 0.

    Raises:
        UserError: when the window is below 1, or `halvings` is empty, negative or falling.

    Source: Eq. 4, Eq. 7.
    """
    assert unit >= 0, unit
    assert level >= 0, level
    if window is not None and window < 1:
        raise UserError(f"The history window is {window} frames; expected at least 1, or none to keep all frames.")
    if halvings is not None:
        check_halvings(halvings)
    num_frames = unit if window is None else min(unit, window)
    steps_back = range(num_frames - 1, -1, -1)
    if halvings is None:
        return tuple(max(level - back, 0) for back in steps_back)
    return tuple(max(level - halvings[min(back, len(halvings) - 1)], 0) for back in steps_back)


def history_clips(
    frame_pyramids: Sequence[Sequence[Float[Tensor, "b c _h _w"]]],
    level: int,
    window: int | None = None,
    halvings: tuple[int, ...] | None = None,
) -> list[LevelClip]:
    """Collect the history of the next unit; consecutive frames of equal level share one clip.

    Args:
        frame_pyramids: One pyramid per earlier unit, oldest first; in each, coarsest level first.
        level: Level of the noisy frame, 0 = coarsest.
        window: As in `history_levels`.
        halvings: As in `history_levels`.

    Returns:
        Clips, oldest first; empty for unit 0.

    Raises:
        UserError: as `history_levels`.

    Source: Eq. 4, Eq. 7.
    """
    levels = history_levels(len(frame_pyramids), level, window, halvings)
    kept = frame_pyramids[len(frame_pyramids) - len(levels) :]
    pairs = zip(levels, kept, strict=True)
    return [
        LevelClip(latents=torch.stack([pyramid[clip_level] for _, pyramid in group], dim=2), level=clip_level)
        for clip_level, group in groupby(pairs, key=lambda pair: pair[0])
    ]
