"""Convolution that never looks ahead in time, and the explicit state that lets a video pass through in chunks."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

Triple = tuple[int, int, int]
Tails = tuple[Tensor, ...]
POINT: Triple = (1, 1, 1)


@dataclass(frozen=True)
class CausalState:
    """What the layers need to remember between two chunks of one video.

    Attributes:
        tails: For every spatial tile (one if untiled), the last input frames of each causal convolution in the
            order of execution.
    """

    tails: tuple[Tails, ...]


@dataclass
class ChunkPass:
    """One pass of one chunk: hands every causal convolution its earlier frames and collects the new ones.

    Lives for a single call; the durable part is the `CausalState` made of what it collected.

    Attributes:
        earlier: Tails of the chunk before, or None for the first chunk of a video.
        collected: Tails of this chunk, filled in as the layers run.
    """

    earlier: Tails | None
    collected: list[Tensor] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        """Whether the chunk opens the video."""
        return self.earlier is None

    def exchange(self, frames: Tensor, num_padding: int, num_kept: int) -> Tensor:
        """Put the earlier frames (zeros at the start of a video) in front; keep the last `num_kept` of the result."""
        front = pad_front(frames, num_padding) if self.earlier is None else self._join(frames, num_kept)
        # A clone, since a view would keep the whole activation alive until the next chunk.
        self.collected.append(front[:, :, front.shape[2] - num_kept :].clone())
        return front

    def _join(self, frames: Tensor, num_kept: int) -> Tensor:
        assert self.earlier is not None
        tail = self.earlier[len(self.collected)]
        expected = (*frames.shape[:2], num_kept, *frames.shape[3:])
        assert tail.shape == expected, f"state of another video: {tuple(tail.shape)} instead of {expected}"
        return torch.cat([tail, frames], dim=2)


def is_video_start(chunk: ChunkPass | None) -> bool:
    """Whether a pass begins at frame 0: a whole video or its first chunk."""
    return chunk is None or chunk.is_first


def pad_front(frames: Tensor, num_padding: int) -> Tensor:
    """Put zero frames in front."""
    return nn.functional.pad(frames, (0, 0, 0, 0, num_padding, 0))


class CausalConv3d(nn.Module):
    """3-D convolution padded with zeros: symmetric in space, only in front in time.

    The zero frames in front make the first frame independent of all others, so an image is a video of one frame.

    Source: Pyramid-Flow causal VAE (keys `*.conv.weight`, `*.conv.bias`).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Triple = (3, 3, 3), stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        padding = (0, kernel_size[1] // 2, kernel_size[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding)

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u v x"]:
        """Convolve a whole video (`chunk` None) or its next chunk."""
        num_padding = self.conv.kernel_size[0] - 1
        if num_padding == 0:
            return self.conv(frames)
        if chunk is None:
            return self.conv(pad_front(frames, num_padding))
        num_kept = num_padding + 1 - self.conv.stride[0]
        return self.conv(chunk.exchange(frames, num_padding, num_kept))
