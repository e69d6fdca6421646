"""Single-stream block: one set of weights for text and video, mixer and feed-forward in parallel (Fig. 2a and 2b).

With an attention mixer this is the base model's block; with the MM-DiM mixer and the temporal branch it is the MM-DiM
block.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import SharesInput
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.mixers.parallel import ParallelMixer
from m4v.models.denoiser.modulation import Modulation, modulate
from m4v.models.denoiser.temporal_branch import NoTemporalBranch


class SingleStreamBlock(SharesInput):
    """`tokens + gate * joint([mixer | feed-forward])`, plus the temporal branch.

    Args:
        config: Network configuration.
        mixer: Maps modulated tokens and context to mixed tokens.
        temporal_branch: Adds its part to the block's output; a `NoTemporalBranch` for attention blocks.
    """

    def __init__(
        self,
        config: DenoiserConfig,
        mixer: AttentionMixer | MMDiMMixer | ParallelMixer,
        temporal_branch: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.modulation = Modulation(width, 3)
        self.mixer = mixer
        self.temporal_branch = temporal_branch or NoTemporalBranch()
        self.mlp_up = nn.Linear(width, config.mlp_ratio * width)
        self.joint_out = nn.Linear((1 + config.mlp_ratio) * width, width)

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        mixer_projections = self.mixer.shared_projections()
        return (*mixer_projections, self.mlp_up) if mixer_projections else ()

    def forward(
        self,
        encoder_hidden_states: Float[Tensor, "b l d"],
        hidden_states: Float[Tensor, "b n d"],
        context: SequenceContext,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b n d"]]:
        """Update text and video as one sequence; returns them apart, so that caching hooks see the same two streams
        in every block.
        """
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        shift, scale, gate = self.modulation(context.embedding, context.modulation)
        modulated = modulate(tokens, shift, scale)
        if self.is_fused:
            *projected, wide = self.project(modulated)
            mixed = self.mixer(modulated, context, projected)
        else:
            mixed = self.mixer(modulated, context)
            wide = self.mlp_up(modulated)
        tokens = tokens + gate * self.joint_out(_side_by_side(mixed, wide))
        tokens = self.temporal_branch(tokens, modulated, context)
        text, video = tokens.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return text, video


def _side_by_side(mixed: Float[Tensor, "b n d"], wide: Float[Tensor, "b n e"]) -> Float[Tensor, "b n d+e"]:
    """Mixer output and activated feed-forward, as the joint matrix takes them.

    Without gradients the activation goes straight to its place, which spares a copy of the widest tensor of the block;
    a compiler arranges that by itself.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or mixed.dtype != wide.dtype:
        return torch.cat([mixed, F.gelu(wide, approximate="tanh")], dim=-1)
    width = mixed.shape[-1]
    joint = mixed.new_empty(*mixed.shape[:-1], width + wide.shape[-1])
    joint[..., :width] = mixed
    torch.ops.aten.gelu.out(wide, approximate="tanh", out=joint[..., width:])
    return joint
