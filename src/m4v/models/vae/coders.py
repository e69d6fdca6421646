"""Encoder and decoder of the causal video VAE: levels of residual blocks joined by samplers in space and time."""

from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m4v.models.vae.blocks import (
    MidBlock,
    ResnetBlock,
    SpatialDownsample,
    SpatialUpsample,
    TemporalDownsample,
    TemporalUpsample,
    depth_to_space,
    make_norm,
    run_all,
    space_to_depth,
)
from m4v.models.vae.causal_conv import CausalConv3d, ChunkPass
from m4v.models.vae.config import CausalVideoVAEConfig


def _num_groups(config: CausalVideoVAEConfig) -> int | None:
    return config.norm_groups if config.norm == "group" else None


def _attention_groups(config: CausalVideoVAEConfig) -> int | None:
    return config.norm_groups if config.mid_attention else None


def _spatial_sampler(config: CausalVideoVAEConfig) -> dict[str, Any]:
    is_lean = config.samplers == "lean"
    return {"kernel_size": (1, 3, 3) if is_lean else (3, 3, 3), "has_shortcut": is_lean}


def _temporal_sampler(config: CausalVideoVAEConfig) -> dict[str, Any]:
    is_lean = config.samplers == "lean"
    return {"kernel_size": (3, 1, 1) if is_lean else (3, 3, 3), "has_shortcut": is_lean}


class DownBlock(nn.Module):
    """One encoder level and the step to the next."""

    def __init__(
        self, in_channels: int, channels: int, next_channels: int, level: int, config: CausalVideoVAEConfig
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * config.encoder_resnets[level]
        self.resnets = nn.ModuleList(ResnetBlock(a, b, _num_groups(config)) for a, b in pairwise(widths))
        spatial, temporal = config.spatial_down[level], config.temporal_down[level]
        middle = next_channels if spatial else widths[-1]
        self.downsamplers = nn.ModuleList(
            [SpatialDownsample(widths[-1], middle, **_spatial_sampler(config))] if spatial else []
        )
        self.temporal_downsamplers = nn.ModuleList(
            [TemporalDownsample(middle, next_channels, **_temporal_sampler(config))] if temporal else []
        )

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u v x"]:
        """Refine, then shrink space, then time."""
        frames = run_all(self.resnets, frames, chunk)
        frames = run_all(self.downsamplers, frames, chunk)
        return run_all(self.temporal_downsamplers, frames, chunk)


class UpBlock(nn.Module):
    """One decoder level and the step to the next finer one."""

    def __init__(
        self, in_channels: int, channels: int, next_channels: int, level: int, config: CausalVideoVAEConfig
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * config.decoder_resnets[config.num_levels - 1 - level]
        self.resnets = nn.ModuleList(ResnetBlock(a, b, _num_groups(config)) for a, b in pairwise(widths))
        # The way up undoes the step that led from level - 1 down to this level.
        spatial = level > 0 and config.spatial_down[level - 1]
        temporal = level > 0 and config.temporal_down[level - 1]
        middle = next_channels if spatial else widths[-1]
        self.upsamplers = nn.ModuleList(
            [SpatialUpsample(widths[-1], middle, **_spatial_sampler(config))] if spatial else []
        )
        self.temporal_upsamplers = nn.ModuleList(
            [TemporalUpsample(middle, next_channels, **_temporal_sampler(config))] if temporal else []
        )

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u v x"]:
        """Refine, then grow space, then time."""
        frames = run_all(self.resnets, frames, chunk)
        frames = run_all(self.upsamplers, frames, chunk)
        return run_all(self.temporal_upsamplers, frames, chunk)


class Encoder(nn.Module):
    """Video to posterior moments (mean and log-variance, stacked on channels).

    Source: Pyramid-Flow causal VAE.
    """

    def __init__(self, config: CausalVideoVAEConfig) -> None:
        super().__init__()
        self.front_patch = config.front_patch
        widths = config.encoder_widths
        self.conv_in = CausalConv3d(config.in_channels * config.front_patch**2, widths[0])
        blocks = []
        channels = widths[0]
        for level, width in enumerate(widths):
            resamples = config.spatial_down[level] or config.temporal_down[level]
            following = widths[level + 1] if resamples and config.samplers == "lean" else width
            blocks.append(DownBlock(channels, width, following, level, config))
            channels = following
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(widths[-1], config.mid_resnets, _attention_groups(config), _num_groups(config))
        self.conv_norm_out = make_norm(widths[-1], _num_groups(config))
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def forward(self, video: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u v x"]:
        """Encode a whole video (`chunk` None) or its next chunk."""
        frames = self.conv_in(space_to_depth(video, self.front_patch), chunk)
        frames = run_all(self.down_blocks, frames, chunk)
        frames = self.mid_block(frames, chunk)
        return self.conv_out(F.silu(self.conv_norm_out(frames)), chunk)


class Decoder(nn.Module):
    """Latents to video.

    Source: Pyramid-Flow causal VAE.
    """

    def __init__(self, config: CausalVideoVAEConfig) -> None:
        super().__init__()
        self.front_patch = config.front_patch
        widths = config.decoder_widths
        self.conv_in = CausalConv3d(config.latent_channels, widths[-1])
        self.mid_block = MidBlock(widths[-1], config.mid_resnets, _attention_groups(config), _num_groups(config))
        blocks = []
        channels = widths[-1]
        for level in reversed(range(config.num_levels)):
            resamples = level > 0 and (config.spatial_down[level - 1] or config.temporal_down[level - 1])
            following = widths[level - 1] if resamples and config.samplers == "lean" else widths[level]
            blocks.append(UpBlock(channels, widths[level], following, level, config))
            channels = following
        self.up_blocks = nn.ModuleList(blocks)
        self.conv_norm_out = make_norm(widths[0], _num_groups(config))
        self.conv_out = CausalConv3d(widths[0], config.in_channels * config.front_patch**2)

    def forward(
        self, latents: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None
    ) -> Float[Tensor, "b d u v x"]:
        """Decode a whole video (`chunk` None) or its next chunk."""
        frames = self.mid_block(self.conv_in(latents, chunk), chunk)
        frames = run_all(self.up_blocks, frames, chunk)
        frames = self.conv_out(F.silu(self.conv_norm_out(frames)), chunk)
        return depth_to_space(frames, self.front_patch)
