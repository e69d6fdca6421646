"""How many tokens a denoiser call sees, for every unit and pyramid level (Eq. 4)."""

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.core.shapes import LatentShape
from m4v.flow.history import history_levels
from m4v.models.denoiser.config import DenoiserConfig


def unit_layout(
    config: DenoiserConfig, latent: LatentShape, unit: int, level: int, num_text_tokens: int, window: int | None = None
) -> SequenceLayout:
    """Layout of the sequence that denoises `unit` at `level`.

    Args:
        latent: Latent size at the finest level.
        window: History units kept; all if absent.
    """
    finest = config.num_levels - 1

    def grid(frame_level: int) -> FrameGrid:
        scale = config.patch_size * 2 ** (finest - frame_level)
        return FrameGrid(frame_level, latent.height // scale, latent.width // scale)

    frames = [*(grid(past) for past in history_levels(unit, level, window)), grid(level)]
    return SequenceLayout(tuple(frames), num_text_tokens)


def tokens_by_unit(config: DenoiserConfig, latent: LatentShape, num_text_tokens: int) -> list[list[int]]:
    """Text and video tokens of every unit (rows) at every level (columns)."""
    rows = []
    for unit in range(latent.num_units):
        layouts = [unit_layout(config, latent, unit, level, num_text_tokens) for level in range(config.num_levels)]
        rows.append([layout.num_text_tokens + layout.num_video_tokens for layout in layouts])
    return rows
