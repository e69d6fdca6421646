"""The temporal branch on Wan: one resolution, so every frame is one time token and nothing is pooled."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.temporal_branch import TimeMixer
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.denoiser.wan_context import WanContext


class WanTemporalBranch(TimeMixer):
    """Attention between whole frames, with Wan's RMSNorm over all heads and its rotary embedding on queries and keys.

    A score sums over positions, and query and key of one position are turned by the same rows and columns, so that what
    remains of the rotation is the time between two frames.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        self.norm_q = nn.RMSNorm(config.width, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.width, eps=config.eps)

    def forward(self, modulated: Float[Tensor, "b n d"], context: WanContext) -> Float[Tensor, "b n d"]:
        """What is to be added to the video tokens, from the block's modulated input."""
        return self.residual(modulated, context.layout, context.video_rotary)

    def _queries_and_keys(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self.norm_q(self.to_q(cells)), self.norm_k(self.to_k(cells))
        return query.unflatten(-1, (self.num_heads, -1)), key.unflatten(-1, (self.num_heads, -1))

    def _mask(self, layout: SequenceLayout, device: torch.device) -> Tensor:
        return _frame_causal_mask(len(layout.frames), device)


@lru_cache(maxsize=64)
def _frame_causal_mask(num_frames: int, device: torch.device) -> Tensor:
    """True where a frame (row) may see a frame (column): all are noisy, so each counts as a time of its own."""
    return torch.ones(num_frames, num_frames, dtype=torch.bool, device=device).tril()
