"""What both kinds of dual-stream block share: a stream with weights of its own, from mixer to feed-forward."""

from torch import Tensor, nn

from m4v.models.denoiser.blocks.feed_forward import FeedForward
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.modulation import Modulation, add_gated, modulate


class Stream(nn.Module):
    """One modality's weights of a dual-stream block; what goes into the mixer is for subclasses to add."""

    modulation: Modulation
    to_out: nn.Linear
    feed_forward: FeedForward

    def finish(self, tokens: Tensor, mixed: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add the mixer's output, then the feed-forward's.

        Args:
            modulation: Six vectors: shift, scale and gate of the mixer, then of the feed-forward.
        """
        _, _, gate_mixer, shift, scale, gate = modulation
        # Contiguous, because the library adds the bias of other inputs in a step, and a rounding, of its own.
        tokens = add_gated(tokens, gate_mixer, self.to_out(mixed.contiguous()))
        return add_gated(tokens, gate, self.feed_forward(modulate(tokens, shift, scale)))


class DualStreamBlock(nn.Module):
    """A block whose two streams keep their own weights."""

    text: Stream
    video: Stream

    def modulations(self, context: SequenceContext) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Modulation of both streams, from the context where it was computed for all blocks at once."""
        if context.modulation is None:
            return self.text.modulation(context.embedding), self.video.modulation(context.embedding)
        text, video = context.modulation.chunk(2, dim=-1)
        return self.text.modulation(context.embedding, text), self.video.modulation(context.embedding, video)
