"""The temporal branch on Wan: one resolution, so every frame is one time token and nothing is pooled."""

from jaxtyping import Float
from torch import Tensor, nn

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
        return self.residual(modulated, context.time_plan, context.video_rotary)

    def _project(self, cells: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], ...]:
        return self.norm_q(self.to_q(cells)), self.norm_k(self.to_k(cells)), self.to_v(cells)

    def _normalise(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return query, key  # as projected, before they are split into heads
