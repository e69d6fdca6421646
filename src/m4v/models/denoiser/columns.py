"""Several sequences in one call, in the packing of Pyramid-Flow's training step.

A column is one sequence: clips of some levels, oldest first, the last one noisy. Pyramid-Flow trains columns of
different levels together and lays their tokens end to end. Every part of the network then works on single tokens or,
where tokens meet (rotary positions, attention, the scan), inside one column; nothing passes between columns. One call
per column therefore gives the same velocities, and needs no padding and no mask over all columns. The training loop
does just that, one column after the other, so that only one column's activations are alive at a time.
"""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning


class VelocityModel(Protocol):
    """What `M4VTransformer3DModel` is to this module."""

    def __call__(
        self, clips: Sequence[LevelClip], timesteps: Float[Tensor, "b"], text: TextConditioning
    ) -> Float[Tensor, "b c t h w"]:
        """Predict the velocity of the last clip."""


def column_velocities(
    model: VelocityModel,
    columns: Sequence[Sequence[LevelClip]],
    timesteps: Float[Tensor, "rows"],
    text: TextConditioning,
) -> list[Float[Tensor, "b c t h w"]]:
    """Predict the velocity of every column's last clip.

    Args:
        model: The denoiser.
        columns: Clips of each column, oldest first, all with the same batch b; levels, frames and sizes may differ.
        timesteps: One per row, in the order of the prompts: `rows = b * len(columns)`, and row r belongs to sample
            `r // len(columns)` of column `r % len(columns)`. Scheduler units, 0 to 1000.
        text: Prompts in that order.

    Returns:
        One velocity per column, in the order of the columns.

    Raises:
        UserError: when there is no column, or rows of prompts, timesteps and clips do not match.

    Source: Pyramid-Flow (training batches of 25 % coarse, 50 % middle and 25 % fine columns).
    """
    count, rows = len(columns), len(text.tokens)
    batches = [clip.latents.shape[0] for clips in columns for clip in clips]
    if not columns or len(timesteps) != rows or any(batch * count != rows for batch in batches):
        raise UserError(
            f"{count} columns with clips of batch {sorted(set(batches))} came with {rows} prompts and "
            f"{len(timesteps)} timesteps; expected one prompt and one timestep per sample and column."
        )
    return [
        model(
            clips,
            timesteps[index::count],
            TextConditioning(text.tokens[index::count], text.mask[index::count], text.pooled[index::count]),
        )
        for index, clips in enumerate(columns)
    ]
