"""The MM-DiM mixer of dual-stream blocks: projections per modality, one scan over both (Appendix A.2, future work)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import is_plain
from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.mixers.step_projection import StepProjection
from m4v.models.denoiser.recomposition.registers import FrameRegisters, RegisterRows


class _Projections(nn.Module):
    """One modality's way into the scan: `[z | x | B | C]`, and step sizes."""

    def __init__(self, width: int, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, num_channels)
        self.dt_proj = StepProjection(width, num_heads)


class DualMMDiMMixer(SelectiveScan):
    """Mamba-2 scan over both streams of a dual-stream block.

    Each modality has projections of its own; convolution, decay rates and norms belong to the scan and are shared.
    Registers announce frames, so they are projected as video is. The context says along which path.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        options = config.mixer
        super().__init__(config.num_attention_heads, config.attention_head_dim, options, has_head_norm=options.qk_norm)
        width = config.width
        num_channels = width + sum(self.splits)
        self.text = _Projections(width, num_channels, self.num_heads)
        self.video = _Projections(width, num_channels, self.num_heads)
        self.registers = FrameRegisters(config.num_levels, width) if config.recomposition.registers else None
        self.reset_parameters()

    def forward(
        self, text: Float[Tensor, "b l d"], video: Float[Tensor, "b v d"], context: SequenceContext
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b v d"]]:
        """Mix modulated tokens of both streams; returns (text, video), before the streams' output matrices."""
        num_text = text.shape[1]
        if context.added_positions is not None:
            text, video = (
                stream + waves.to(stream.dtype)
                for stream, waves in zip((text, video), context.added_positions.tensor_split([num_text]), strict=True)
            )
        assert context.scan is not None
        registers = self.project_registers(video) if context.registers is None else context.registers
        mixed = self.mix(
            project_streams((text, video), (self.text.in_proj, self.video.in_proj)),
            registers.rows,
            torch.cat([self.text.dt_proj(text), self.video.dt_proj(video)], dim=1),
            registers.dt,
            context.scan,
        )
        return mixed[:, :num_text], mixed[:, num_text:]

    def project_registers(self, like: Float[Tensor, "b n d"]) -> RegisterRows:
        """Registers through the projections of video, in the format of tokens; no rows if there are none."""
        registers = like.new_empty(0, like.shape[-1])
        if self.registers is not None:
            registers = self.registers().to(like.dtype)
        return RegisterRows(self.video.in_proj(registers), self.video.dt_proj(registers))


def project_streams(
    streams: Sequence[Float[Tensor, "b _ d"]], projections: Sequence[nn.Linear]
) -> Float[Tensor, "b n f"]:
    """Each stream through its own matrix, one after another along the tokens.

    Without gradients the products write where they belong, which spares a copy of the widest activations of the block.
    """
    if not torch.is_grad_enabled() and torch.compiler.is_compiling():
        # Into its part of a concatenation a compiler lets a product of matrices write, but not one of batches.
        samples = zip(*streams, strict=True)
        parts = [project(rows) for sample in samples for rows, project in zip(sample, projections, strict=True)]
        return torch.cat(parts).unflatten(0, (len(streams[0]), -1))
    if torch.is_grad_enabled() or not _may_write_directly(streams[0].device.type, projections):
        return torch.cat([project(stream) for stream, project in zip(streams, projections, strict=True)], dim=1)
    lengths = [stream.shape[1] for stream in streams]
    rows = streams[0].new_empty(streams[0].shape[0], sum(lengths), projections[0].out_features)
    for stream, projection, part in zip(streams, projections, rows.split(lengths, dim=1), strict=True):
        for sample, target in zip(stream, part, strict=True):
            torch.addmm(projection.bias, sample, projection.weight.T, out=target)
    return rows


def _may_write_directly(device: str, projections: Sequence[nn.Linear]) -> bool:
    """Adapters, hooks and autocast need calls of their own; "meta" has no autocast to ask about."""
    is_autocast = device != "meta" and torch.is_autocast_enabled(device)
    return not is_autocast and all(map(is_plain, projections))
