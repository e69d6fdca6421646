"""Pixel and latent sizes of a video, and the compression that relates them (Sec. 3.1: causal VAE)."""

from dataclasses import dataclass
from numbers import Integral

from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VideoShape:
    """Size of a video in pixels.

    Raises:
        UserError: if a number is not whole.
    """

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width"):
            if not isinstance(getattr(self, name), Integral):
                raise UserError(f"{name} is {getattr(self, name)!r}; expected a whole number.")

    def __str__(self) -> str:
        return f"{self.num_frames} frames of {self.width}x{self.height} pixels"


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """Size of a video in latent cells; one unit of generation is one latent frame."""

    num_units: int
    height: int
    width: int


def _nearest_multiples(value: int, step: int) -> str:
    below = max(step, value // step * step)
    return str(below) if below >= value else f"{below} or {below + step}"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How many pixels, per axis, one latent cell stands for; the first frame always has a latent of its own."""

    time: int
    space: int

    def latent_shape(self, video: VideoShape) -> LatentShape:
        """Convert a pixel size to a latent size.

        Raises:
            UserError: if the frame count is not `time * k + 1` or a side is not a multiple of `space`.
        """
        if video.num_frames < 1 or (video.num_frames - 1) % self.time:
            below = max(0, (video.num_frames - 1) // self.time) * self.time + 1
            raise UserError(
                f"num_frames is {video.num_frames}, but this model makes {self.time}k+1 frames; "
                f"use {below} or {below + self.time}."
            )
        for name, value in (("height", video.height), ("width", video.width)):
            if value < self.space or value % self.space:
                nearest = _nearest_multiples(value, self.space)
                raise UserError(f"{name} is {value}, but it must be a multiple of {self.space}; use {nearest}.")
        return LatentShape(
            num_units=(video.num_frames - 1) // self.time + 1,
            height=video.height // self.space,
            width=video.width // self.space,
        )

    def video_shape(self, latent: LatentShape) -> VideoShape:
        """Convert a latent size to the pixel size it decodes to."""
        return VideoShape(
            num_frames=(latent.num_units - 1) * self.time + 1,
            height=latent.height * self.space,
            width=latent.width * self.space,
        )
