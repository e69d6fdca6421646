"""Parts of the causal video VAE: residual block, per-frame norm and attention, samplers in space and time."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m4v.models.vae.causal_conv import POINT, CausalConv3d, ChunkPass, Triple, is_video_start

NORM_EPSILON = 1e-6


class CausalGroupNorm(nn.GroupNorm):
    """Group norm over each frame alone, so that statistics never cross time."""

    def forward(self, frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Normalise every frame."""
        batch = frames.shape[0]
        normed = super().forward(rearrange(frames, "b c t h w -> (b t) c h w"))
        return rearrange(normed, "(b t) c h w -> b c t h w", b=batch)


def make_norm(channels: int, num_groups: int | None) -> nn.Module:
    """Per-frame group norm, or nothing if `num_groups` is None."""
    return nn.Identity() if num_groups is None else CausalGroupNorm(num_groups, channels, eps=NORM_EPSILON)


class ResnetBlock(nn.Module):
    """Two causal 3x3x3 convolutions around a shortcut.

    Without norms the second convolution starts at zero: the block begins as its shortcut, so depth costs no
    stability. With norms it keeps the usual initialisation.

    Source: Pyramid-Flow causal VAE.
    """

    def __init__(self, in_channels: int, out_channels: int, num_groups: int | None) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, num_groups)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = make_norm(out_channels, num_groups)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = CausalConv3d(in_channels, out_channels, POINT) if in_channels != out_channels else None
        if num_groups is None:
            for parameter in self.conv2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d t h w"]:
        """Refine the frames."""
        residual = self.conv1(F.silu(self.norm1(frames)), chunk)
        residual = self.conv2(F.silu(self.norm2(residual)), chunk)
        return residual + (frames if self.conv_shortcut is None else self.conv_shortcut(frames))


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of each frame, added to its input.

    Source: Pyramid-Flow causal VAE, mid block.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, channels, eps=NORM_EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Let the positions of every frame exchange information."""
        batch, _, _, height, width = frames.shape
        images = rearrange(frames, "b c t h w -> (b t) c h w")
        tokens = rearrange(self.group_norm(images), "n c h w -> n (h w) c")
        attended = F.scaled_dot_product_attention(
            self.to_q(tokens)[:, None], self.to_k(tokens)[:, None], self.to_v(tokens)[:, None]
        )[:, 0]
        residual = self.to_out[0](attended)
        return frames + rearrange(residual, "(b t) (h w) c -> b c t h w", b=batch, h=height, w=width)


class SpatialDownsample(nn.Module):
    """Halve height and width with a strided causal convolution, plus the folded pixels if `has_shortcut`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, has_shortcut: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels, kernel_size, stride=(1, 2, 2))
        self.has_shortcut = has_shortcut

    def forward(
        self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None
    ) -> Float[Tensor, "b d t h2 w2"]:
        """Make one position of every four."""
        halved = self.conv(frames, chunk)
        if self.has_shortcut:
            halved = halved + average_channels(space_to_depth(frames, 2), halved.shape[1])
        return halved


class TemporalDownsample(nn.Module):
    """Halve time with a strided causal convolution, plus the folded frames if `has_shortcut`.

    1 + 2k frames become 1 + k; a later chunk of 2k frames becomes k.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, has_shortcut: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels, kernel_size, stride=(2, 1, 1))
        self.has_shortcut = has_shortcut

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u h w"]:
        """Make one frame of every two; the first frame of a video has no partner and stands for both."""
        halved = self.conv(frames, chunk)
        if self.has_shortcut:
            if is_video_start(chunk):
                frames = torch.cat([frames[:, :, :1], frames], dim=2)
            folded = rearrange(frames, "b c (t p) h w -> b (c p) t h w", p=2)
            halved = halved + average_channels(folded, halved.shape[1])
        return halved


class SpatialUpsample(nn.Module):
    """Double height and width: a causal convolution to four times the channels, unfolded into 2x2 pixels.

    With `has_shortcut` the input's own channels are repeated and added before unfolding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, has_shortcut: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, 4 * out_channels, kernel_size)
        self.has_shortcut = has_shortcut

    def forward(
        self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None
    ) -> Float[Tensor, "b d t h2 w2"]:
        """Make four positions of every one."""
        folded = self.conv(frames, chunk)
        if self.has_shortcut:
            folded = folded + repeat_channels(frames, folded.shape[1])
        return depth_to_space(folded, 2)


class TemporalUpsample(nn.Module):
    """Double time: n frames become 2n - 1 at the start of a video, 2n later.

    With `has_shortcut` the input's own channels are repeated and added before unfolding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, has_shortcut: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, 2 * out_channels, kernel_size)
        self.has_shortcut = has_shortcut

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b d u h w"]:
        """Make two frames of every one; of the pair made from a video's first frame only the second exists."""
        folded = self.conv(frames, chunk)
        if self.has_shortcut:
            folded = folded + repeat_channels(frames, folded.shape[1])
        doubled = rearrange(folded, "b (c p) t h w -> b c (t p) h w", p=2)
        return doubled[:, :, 1:] if is_video_start(chunk) else doubled


def average_channels(frames: Float[Tensor, "b c t h w"], num_channels: int) -> Float[Tensor, "b d t h w"]:
    """Average neighbouring channels down to `num_channels`, which must divide their number."""
    return rearrange(frames, "b (d n) t h w -> b d n t h w", d=num_channels).mean(dim=2)


def repeat_channels(frames: Float[Tensor, "b c t h w"], num_channels: int) -> Float[Tensor, "b d t h w"]:
    """Repeat every channel in place up to `num_channels`, which must be a multiple of their number."""
    return frames.repeat_interleave(num_channels // frames.shape[1], dim=1)


def space_to_depth(frames: Float[Tensor, "b c t h w"], factor: int) -> Float[Tensor, "b d t h2 w2"]:
    """Fold `factor` x `factor` pixels into channels, ordered (channel, row, column)."""
    if factor == 1:
        return frames
    return rearrange(frames, "b c t (h p) (w q) -> b (c p q) t h w", p=factor, q=factor)


def depth_to_space(frames: Float[Tensor, "b d t h w"], factor: int) -> Float[Tensor, "b c t h2 w2"]:
    """Undo `space_to_depth`."""
    if factor == 1:
        return frames
    return rearrange(frames, "b (c p q) t h w -> b c t (h p) (w q)", p=factor, q=factor)


def run_all(layers: nn.ModuleList, frames: Tensor, chunk: ChunkPass | None) -> Tensor:
    """Pass the frames through the layers in order."""
    for layer in layers:
        frames = layer(frames, chunk)
    return frames


class MidBlock(nn.Module):
    """Residual blocks on the coarsest grid, with per-frame attention after the first one.

    Source: Pyramid-Flow causal VAE.
    """

    def __init__(self, channels: int, num_resnets: int, attention_groups: int | None, num_groups: int | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, num_groups) for _ in range(num_resnets))
        attentions = [] if attention_groups is None else [FrameAttention(channels, attention_groups)]
        self.attentions = nn.ModuleList(attentions)

    def forward(self, frames: Float[Tensor, "b c t h w"], chunk: ChunkPass | None = None) -> Float[Tensor, "b c t h w"]:
        """Refine the coarsest features."""
        frames = run_all(self.resnets[:1], frames, chunk)
        for attention in self.attentions:
            frames = attention(frames)
        return run_all(self.resnets[1:], frames, chunk)
