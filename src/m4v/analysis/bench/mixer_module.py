"""The network's own mixers as sides of a comparison: the modules that generation runs, and the output matrix."""

from typing import Literal

import torch
import torch.nn.functional as F

from m4v.analysis.bench.work import Work
from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, TemporalBranchConfig
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.pyramid import M4VTransformer3DModel


def mixer_case(
    layout: SequenceLayout,
    num_heads: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    seed: int,
    kind: Literal["mm_dim", "attention"] = "mm_dim",
) -> Work:
    """A mixer of a network of this width, on random tokens of one sample, temporal branch aside."""
    torch.manual_seed(seed)
    side = 2 * (head_dim // 6)
    config = DenoiserConfig(
        num_attention_heads=num_heads,
        attention_head_dim=head_dim,
        rope_axes_dims=(head_dim - 2 * side, side, side),
        # Masks of attention, which this mixer has not, would take memory that grows with the square of the length.
        temporal_causal_attention=False,
        temporal_branch=TemporalBranchConfig(enabled=False),
        mixer_plan="full" if kind == "mm_dim" else "attention-only",
        dual_mixer=kind,
    )
    with torch.device(device):
        mixer = MMDiMMixer(config) if kind == "mm_dim" else AttentionMixer(config)
        output = torch.randn(config.width, config.width) * config.width**-0.5
        tokens = torch.randn(1, layout.num_text_tokens + layout.num_video_tokens, config.width)
    for name, parameter in mixer.named_parameters():
        if not set(M4VTransformer3DModel._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    text_mask = torch.ones(1, layout.num_text_tokens, dtype=torch.bool, device=device)
    context = sequence_context(config, layout, torch.zeros(1, config.width, device=device), text_mask)
    context = context.along(config.scan_path(0))
    tokens, output = tokens.to(dtype).requires_grad_(), output.to(dtype).requires_grad_()
    return Work(lambda: F.linear(mixer(tokens, context), output), [tokens, output, *mixer.parameters()])
