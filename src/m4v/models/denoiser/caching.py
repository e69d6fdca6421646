"""Caching between solver steps with diffusers' own hooks (FirstBlockCache, MagCache) on our blocks.

The hooks have to be told which result of a block is video and which is text, and which evaluations belong together:
neighbouring steps of one unit at one pyramid level. Units and levels differ in sequence length, so nothing may pass
from one to the next.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning


def register_blocks(block_classes: Iterable[type[nn.Module]], *, video: int, text: int | None) -> None:
    """Tell diffusers' caching hooks what blocks return.

    Args:
        block_classes: Their `forward` names its streams `hidden_states` and, if `text` is given,
            `encoder_hidden_states`.
        video: Position of the video tokens in what a block returns.
        text: Position of the text tokens; None if a block returns video alone.
    """
    for block_class in block_classes:
        streams = TransformerBlockMetadata(return_hidden_states_index=video, return_encoder_hidden_states_index=text)
        TransformerBlockRegistry.register(block_class, streams)


def in_cache_context(denoiser: Any, name: str) -> Callable[..., Tensor]:
    """Let a denoiser whose cache is enabled keep what it remembers under `name`; any other is returned as it is.

    What it kept under earlier names is forgotten: they never come back, and would hold memory.

    Args:
        denoiser: Takes clips, timesteps and text.
        name: One per unit and level. Passes of one step that differ in history or batch are told apart by themselves.
    """
    if not getattr(denoiser, "is_cache_enabled", False):
        plain: Callable[..., Tensor] = denoiser
        return plain
    denoiser._reset_stateful_cache()

    def evaluate(
        clips: Sequence[LevelClip], timesteps: Float[Tensor, "b"], text: TextConditioning
    ) -> Float[Tensor, "b c t h w"]:
        with denoiser.cache_context(f"{name}, {len(clips)} clips, {len(timesteps)} samples"):
            velocity: Tensor = denoiser(clips, timesteps, text)
        return velocity

    return evaluate
