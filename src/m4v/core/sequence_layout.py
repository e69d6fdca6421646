"""What a token sequence is made of: text and frames of several sizes, oldest frame first (Eq. 4, Fig. 2c)."""

from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(frozen=True)
class FrameGrid:
    """Token grid of one latent frame.

    Attributes:
        level: Spatial pyramid level, 0 = coarsest.
        height: Token rows.
        width: Token columns.
        register: Kind of the register in front of the frame, where it is not the level (networks without a pyramid).
    """

    level: int
    height: int
    width: int
    register: int | None = None

    @property
    def register_kind(self) -> int:
        """Kind of the register in front of the frame."""
        return self.level if self.register is None else self.register

    @property
    def num_tokens(self) -> int:
        """Tokens in the frame."""
        return self.height * self.width


@dataclass(frozen=True)
class SequenceLayout:
    """Frames and text of one sequence; hashable, so that plans and position tables can be cached by it.

    Attributes:
        frames: Token grids in temporal order.
        num_text_tokens: Length of the padded prompt.
        num_noisy_frames: How many of the last frames are being denoised; all before them are history.
        frame_starts: Derived: index of each frame's first token among the video tokens, plus the total as last entry.
    """

    frames: tuple[FrameGrid, ...]
    num_text_tokens: int
    num_noisy_frames: int = 1
    frame_starts: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        assert 1 <= self.num_noisy_frames <= len(self.frames), (self.num_noisy_frames, len(self.frames))
        # A plain value, not a cached property: graph compilers follow this one.
        starts = tuple(accumulate((frame.num_tokens for frame in self.frames), initial=0))
        object.__setattr__(self, "frame_starts", starts)

    @property
    def num_video_tokens(self) -> int:
        """Video tokens of all frames."""
        return self.frame_starts[-1]

    @property
    def num_history_frames(self) -> int:
        """Frames before the noisy ones."""
        return len(self.frames) - self.num_noisy_frames

    @property
    def num_history_tokens(self) -> int:
        """Video tokens before the noisy frames: the seam between prefix and current part."""
        return self.frame_starts[self.num_history_frames]
