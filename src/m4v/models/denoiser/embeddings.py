"""Timestep and pooled-prompt embedding: the vector that modulates every token of a sequence."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def timestep_features(timesteps: Float[Tensor, "b"], num_features: int = 256) -> Float[Tensor, "b f"]:
    """Cosines then sines of the timestep at geometric frequencies, in fp32; timesteps run to 1000."""
    half = num_features // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timesteps.device))
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class _TwoLayer(nn.Module):
    def __init__(self, in_dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


class TimeTextEmbedding(nn.Module):
    """Sum of a timestep branch and a pooled-prompt branch."""

    def __init__(self, width: int, pooled_text_dim: int) -> None:
        super().__init__()
        self.timestep_embedder = _TwoLayer(256, width)
        self.text_embedder = _TwoLayer(pooled_text_dim, width)

    def forward(self, timesteps: Float[Tensor, "b"], pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b d"]:
        features = timestep_features(timesteps).to(pooled.dtype)
        return self.timestep_embedder(features) + self.text_embedder(pooled)
