"""Dual-stream MM-DiM block: text and video keep their own weights and meet in one scan (Appendix A.2, future work).

The paper kept attention here because preparing the scan's input cost more than it saved. With re-composition as index
data inside the scan, both streams are projected into one buffer in their natural order, and nothing is rearranged.

The block has no temporal branch. A.2 speaks of replacing "all dual-stream modules with Mamba blocks", and its 22.416
TFLOPs follow from no reading; the dual-stream blocks it replaces only mix, and each single-stream block behind them
attends over time.
"""

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.blocks.dual_stream import DualStreamBlock, Stream
from m4v.models.denoiser.blocks.feed_forward import FeedForward
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.mixers.dual_mm_dim import DualMMDiMMixer
from m4v.models.denoiser.modulation import Modulation, modulate


class _ScanStream(Stream):
    """A stream whose projections are the mixer's."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = Modulation(width, 6)
        self.to_out = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, config.mlp_ratio)


class DualMMDiMBlock(DualStreamBlock):
    """One scan over two streams, each with its own projections, modulation and feed-forward.

    Arguments bear the names under which diffusers' caching hooks look streams up, as in `MMDiTBlock`.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.text = _ScanStream(config)
        self.video = _ScanStream(config)
        self.mixer = DualMMDiMMixer(config)

    def forward(
        self,
        encoder_hidden_states: Float[Tensor, "b l d"],
        hidden_states: Float[Tensor, "b n d"],
        context: SequenceContext,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b n d"]]:
        """Update both streams; returns (text, video)."""
        text_modulation, video_modulation = self.modulations(context)
        text_mixed, video_mixed = self.mixer(
            modulate(encoder_hidden_states, *text_modulation[:2]),
            modulate(hidden_states, *video_modulation[:2]),
            context,
        )
        return (
            self.text.finish(encoder_hidden_states, text_mixed, text_modulation),
            self.video.finish(hidden_states, video_mixed, video_modulation),
        )
