"""What reward learning asks of a scorer (Sec. 3.4, Eq. 6)."""

from collections.abc import Sequence
from typing import Literal, Protocol

from jaxtyping import Float
from torch import Tensor

Sees = Literal["frames", "clip"]


class RewardModel(Protocol):
    """A frozen, differentiable judge of videos; a higher value is better.

    Attributes:
        name: Name in logs: `reward/<name>`.
        sees: `frames` scores every frame alone and takes the mean, so a few frames are enough; `clip` wants the video
            from its first frame, because it judges what happens.
    """

    name: str
    sees: Sees

    def __call__(self, frames: Float[Tensor, "b t 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score videos against their prompts.

        Args:
            frames: Pixels from -1 to 1, of any size; gradients reach them.
            prompts: One per video.
        """
