"""Configuration of the causal video VAE, torch-free (Sec. 3.1: latent video diffusion on a causal VAE)."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from m4v.core.errors import UserError
from m4v.core.shapes import Compression

Statistic = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LatentStatistics:
    """Affine maps that bring latents near mean 0 and variance 1: `(latents - shift) * scale`.

    The first latent frame holds one picture, every later one several pixel frames, so each kind has its own pair.
    A pair is one number for all channels or one number per channel.

    Source: Pyramid-Flow constants (image and video latents are normalised separately).
    """

    image_shift: Statistic = 0.0
    image_scale: Statistic = 1.0
    video_shift: Statistic = 0.0
    video_scale: Statistic = 1.0


@dataclass(frozen=True, kw_only=True)
class CausalVideoVAEConfig:
    """Shape of a causal video VAE; levels are counted from the pixels (0) to the latents (last).

    Attributes:
        in_channels: Colour channels of the video.
        latent_channels: Channels of a latent.
        front_patch: Pixels per side folded into channels before the first convolution; time is never folded.
        encoder_widths: Channels per encoder level, finest first.
        decoder_widths: Channels per decoder level, finest first (the decoder runs through them backwards).
        encoder_resnets: Residual blocks per encoder level, finest first.
        decoder_resnets: Residual blocks per decoder level, in the order the decoder runs them (coarsest first).
        mid_resnets: Residual blocks at the coarsest grid, at the encoder's end and the decoder's start.
        spatial_down: Whether the step from level i to i + 1 halves height and width; the last entry is False.
        temporal_down: Whether the step from level i to i + 1 halves time; the last entry is False.
        norm: "group" (per frame) or "none" (residual branches then start at zero).
        norm_groups: Groups of every group norm.
        mid_attention: Whether the coarsest grid gets self-attention per frame.
        samplers: "full": 3x3x3 convolutions that keep their width, so that the next residual block changes it
            (Pyramid-Flow); "lean": they convolve only the axes they resample, go straight to the next width, and
            carry a shortcut without parameters, without which a small autoencoder learns far more slowly.
        image_shift, image_scale, video_shift, video_scale: See `LatentStatistics`.

    Raises:
        UserError: if the per-level fields disagree in length or a value is out of range.
    """

    in_channels: int = 3
    latent_channels: int = 16
    front_patch: int = 1
    encoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    decoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    encoder_resnets: tuple[int, ...] = (2, 2, 2, 2)
    decoder_resnets: tuple[int, ...] = (3, 3, 3, 3)
    mid_resnets: int = 2
    spatial_down: tuple[bool, ...] = (True, True, True, False)
    temporal_down: tuple[bool, ...] = (True, True, True, False)
    norm: Literal["group", "none"] = "group"
    norm_groups: int = 32
    mid_attention: bool = True
    samplers: Literal["full", "lean"] = "full"
    image_shift: Statistic = 0.0
    image_scale: Statistic = 1.0
    video_shift: Statistic = 0.0
    video_scale: Statistic = 1.0

    def __post_init__(self) -> None:
        levels = len(self.encoder_widths)
        per_level = ("decoder_widths", "encoder_resnets", "decoder_resnets", "spatial_down", "temporal_down")
        for name in per_level:
            if len(getattr(self, name)) != levels:
                raise UserError(f"{name} has {len(getattr(self, name))} entries; expected {levels}, one per level.")
        if self.spatial_down[-1] or self.temporal_down[-1]:
            raise UserError("The last level cannot downsample; set the last spatial_down and temporal_down to False.")
        if min(self.encoder_resnets) < 1 or min(self.decoder_resnets) < 1:
            raise UserError("encoder_resnets and decoder_resnets need at least one residual block per level.")
        if self.norm == "group":
            for width in (*self.encoder_widths, *self.decoder_widths):
                if width % self.norm_groups:
                    raise UserError(f"Width {width} is not a multiple of norm_groups {self.norm_groups}.")
        if self.samplers == "lean":
            self._check_shortcuts()
        for name in ("image_shift", "image_scale", "video_shift", "video_scale"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.latent_channels:
                raise UserError(f"{name} has {len(value)} entries; expected one, or {self.latent_channels}.")

    def _check_shortcuts(self) -> None:
        for level in range(self.num_levels - 1):
            # The first sampler of a step changes the width; a second one keeps it, which always fits.
            folded = 4 if self.spatial_down[level] else 2 if self.temporal_down[level] else 0
            for name, widths in (("encoder", self.encoder_widths), ("decoder", self.decoder_widths)):
                fine, coarse = widths[level], widths[level + 1]
                if folded and folded * fine % coarse:
                    raise UserError(
                        f"{name}_widths {fine} and {coarse} do not fit lean samplers; {folded} times {fine} must be a"
                        f" multiple of {coarse}."
                    )

    @property
    def num_levels(self) -> int:
        """Number of resolutions."""
        return len(self.encoder_widths)

    @property
    def compression(self) -> Compression:
        """Pixels per latent cell and axis."""
        return Compression(
            time=2 ** sum(self.temporal_down),
            space=self.front_patch * 2 ** sum(self.spatial_down),
        )

    @property
    def latent_statistics(self) -> LatentStatistics:
        """The four normalisation fields as one value."""
        return LatentStatistics(
            image_shift=self.image_shift,
            image_scale=self.image_scale,
            video_shift=self.video_shift,
            video_scale=self.video_scale,
        )

    @classmethod
    def pyramid_flow(cls) -> "CausalVideoVAEConfig":
        """Pyramid-Flow's released VAE: 335,402,067 parameters, 8x in time, 8x8 in space."""
        return cls(image_shift=-0.04, image_scale=1 / 1.8726, video_shift=-0.2343, video_scale=1 / 3.0986)

    @classmethod
    def toybox_xs(cls) -> "CausalVideoVAEConfig":
        """64 px toybox: 3.2 million parameters, most of them in the decoder; 4x in time, 8x8 in space."""
        return cls(
            front_patch=4,
            encoder_widths=(32, 64, 64),
            decoder_widths=(64, 128, 128),
            encoder_resnets=(1, 1, 1),
            decoder_resnets=(1, 1, 1),
            mid_resnets=0,
            spatial_down=(True, False, False),
            temporal_down=(True, True, False),
            norm="none",
            mid_attention=False,
            samplers="lean",
        )

    @classmethod
    def toybox_m(cls) -> "CausalVideoVAEConfig":
        """128 px toybox: the 64 px one with a wider coarsest grid, 2.4 million parameters."""
        return dataclasses.replace(
            cls.toybox_xs(),
            encoder_widths=(32, 32, 64),
            decoder_widths=(64, 64, 128),
            decoder_resnets=(1, 1, 2),
        )

    @classmethod
    def debug(cls) -> "CausalVideoVAEConfig":
        """Smallest VAE with every mechanism and the toybox compression; for tests."""
        return cls(
            latent_channels=4,
            front_patch=4,
            encoder_widths=(4, 4, 8),
            decoder_widths=(4, 8, 8),
            encoder_resnets=(1, 1, 1),
            decoder_resnets=(1, 1, 1),
            spatial_down=(True, False, False),
            temporal_down=(True, True, False),
            norm_groups=2,
            samplers="lean",
        )
