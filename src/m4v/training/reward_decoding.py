"""Frames of one unit with the frames before them, differentiable in the unit (Sec. 3.4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m4v.models.vae.causal_video_vae import CausalVideoVAE


@dataclass(frozen=True)
class DecodedUnit:
    """Pixels from -1 to 1.

    Attributes:
        context: Frames of the history; no gradient.
        frames: Frames of the unit itself.
    """

    context: Float[Tensor, "b u 3 h w"]
    frames: Float[Tensor, "b t 3 h w"]

    @property
    def clip(self) -> Float[Tensor, "b v 3 h w"]:
        """History and unit."""
        return torch.cat([self.context, self.frames], dim=1)


def decode_unit(
    vae: CausalVideoVAE,
    history: Float[Tensor, "b c i h w"],
    latents: Float[Tensor, "b c 1 h w"],
    context_units: int | None = None,
) -> DecodedUnit:
    """Decode a unit after its history, as the decoder sees it while a video is made.

    The history only fills what the decoder remembers: no gradient, nothing kept. The unit's own pass is computed again
    in the backward pass instead of being kept, since pixels cost more memory than anything else here.

    Args:
        vae: Frozen.
        history: Normalised latents of all units before; may be none.
        latents: Normalised latents of the unit.
        context_units: Most history units that are decoded; None: all of them.

    Source: Sec. 3.4, Eq. 6.
    """
    unit = history.shape[2]
    first = 0 if context_units is None else max(unit - context_units, 0)
    state, context = None, None
    if first < unit:
        with torch.no_grad():
            context, state = vae.decode_chunk(vae.denormalise(history[:, :, first:], first), None)

    def decode(values: Tensor) -> Tensor:
        return vae.decode_chunk(vae.denormalise(values, unit), state)[0]

    decoded: Tensor = checkpoint(decode, latents, use_reentrant=False)
    frames = _clamped(decoded).transpose(1, 2)
    if context is None:
        return DecodedUnit(frames[:, :0].detach(), frames)
    return DecodedUnit(context.float().clamp(-1, 1).transpose(1, 2), frames)


def _clamped(video: Tensor) -> Tensor:
    """Clamp to [-1, 1] with the gradient of the identity: a saturated pixel can still be moved back."""
    video = video.float()
    return video + (video.clamp(-1, 1) - video).detach()
