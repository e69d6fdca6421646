"""Single-stream block: one set of weights for text and video, mixer and feed-forward in parallel (Fig. 2a and 2b).

With an attention mixer this is the base model's block; with the MM-DiM mixer and the temporal branch it is the MM-DiM
block.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.blocks.feed_forward import takes_epilogue
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import SharesInput
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.mixers.parallel import ParallelMixer
from m4v.models.denoiser.modulation import Modulation, add_gated, modulate
from m4v.models.denoiser.temporal_branch import NoTemporalBranch
from m4v.ops.gelu_linear import gelu_linear, linear_of_parts

_MOST_MERGED_ROWS = 4096
"""Tokens of all samples up to which the feed-forward shares the product of the mixer's projections where it could
activate in a product of its own. Merging saves 0.064 ms of 0.395 at 3,968 rows and costs 0.04 ms of 1.22 at 15,488; the
GELU and the concatenation that it then takes cost 24 ns a row, and two products for the joint matrix 6 ns a row (width
1920 to twice 7680, bf16, H200, torch 2.11)."""


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
        """Those of the mixer, then the feed-forward's first; none where the mixer reads something else."""
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
        in_parts = self._activates_in_product(modulated)
        if not self.is_fused:
            mixed = self.mixer(modulated, context)
        elif in_parts:
            mixed = self.mixer(modulated, context, self.project(modulated, -1))
        else:
            *projected, wide = self.project(modulated)
            mixed = self.mixer(modulated, context, projected)
        if in_parts:
            activated = gelu_linear(modulated, self.mlp_up.weight, self.mlp_up.bias)
            joint = linear_of_parts(mixed, activated, self.joint_out.weight, self.joint_out.bias)
        else:
            joint = self.joint_out(_side_by_side(mixed, wide if self.is_fused else self.mlp_up(modulated)))
        tokens = add_gated(tokens, gate, joint)
        tokens = self.temporal_branch(tokens, modulated, context)
        text, video = tokens.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return text, video

    def _activates_in_product(self, tokens: Float[Tensor, "b n d"]) -> bool:
        """Whether the feed-forward has a product of its own, which ends in the GELU."""
        if not takes_epilogue(tokens, self.mlp_up, self.joint_out):
            return False
        return not self.is_fused or tokens.shape[0] * tokens.shape[1] > _MOST_MERGED_ROWS


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
