"""Random inputs of the scan section over real re-composition plans."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.recomposition.plan import recomposition_plan
from m4v.ops.rope import rotary_table
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput, kernel_index

CPU = torch.device("cpu")
NUM_KINDS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a test varies; the rest is random but the same on every run.

    Attributes:
        frames: Height and width of each frame; the last one is noisy, its register is of the last kind.
        prompt_lengths: Real text tokens of each sample, out of `num_text`.
        segment: Scan positions per segment.
    """

    frames: tuple[tuple[int, int], ...] = ((1, 2), (2, 3), (3, 5))
    num_text: int = 6
    prompt_lengths: tuple[int, ...] = (6, 2)
    path: str = "a"
    both_ends: bool = True
    registers: bool = True
    num_heads: int = 2
    head_dim: int = 32
    state_dim: int = 32
    conv_width: int = 4
    silu: bool = True
    norm: bool = True
    rotary: bool = True
    zoh: bool = False
    rates: tuple[float, float] = (1.0, 16.0)
    dt_shift: float = 0.0
    segment: int = 32
    initial: bool = False

    def layout(self) -> SequenceLayout:
        """Frames of this case, each of its own register kind."""
        grids = [FrameGrid(0, *size, register=min(i, NUM_KINDS - 1)) for i, size in enumerate(self.frames)]
        return SequenceLayout(tuple(grids), self.num_text)

    def order(self) -> SectionOrder:
        """Bound plan of the layout along the path, with rotations."""
        layout = self.layout()
        config = RecompositionConfig(text_at_both_ends=self.both_ends, registers=self.registers)
        mask = torch.arange(self.num_text) < torch.tensor(self.prompt_lengths)[:, None]
        bound = recomposition_plan(layout, self.path, config, CPU, NUM_KINDS).bind(mask)
        rotary = None
        if self.rotary:
            positions = torch.arange(layout.num_text_tokens + layout.num_video_tokens, dtype=torch.float64)[:, None]
            rotary = bound.rotary(rotary_table(positions, (self.state_dim,), theta=30.0))
        return SectionOrder(bound.order, bound.is_real, rotary, kernel_index(bound.order, bound.is_real))

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor | None]:
        """Everything differentiable, by argument name."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        batch, heads, rows = len(self.prompt_lengths), self.num_heads, self.num_text + self.layout().num_video_tokens
        channels = heads * (self.head_dim + 2 * self.state_dim)
        width = channels + heads * self.head_dim
        kinds = NUM_KINDS if self.registers else 0
        low, high = self.rates
        values: dict[str, Tensor | None] = {
            "rows": normal(batch, rows, width),
            "register_rows": normal(kinds, width),
            "dt": normal(batch, rows, heads) + self.dt_shift,
            "register_dt": normal(kinds, heads) + self.dt_shift,
            "conv_weight": normal(channels, self.conv_width) / 2 if self.conv_width else None,
            "conv_bias": normal(channels) / 2 if self.conv_width else None,
            "A_log": torch.linspace(low, high, heads, dtype=torch.float64).log(),
            "D": 1 + normal(heads) / 2,
            "dt_bias": normal(heads) - 2,
            "norm_weight": 1 + normal(heads, self.head_dim) / 2,
            "norm_b": 1 + normal(self.state_dim) / 2 if self.norm else None,
            "norm_c": 1 + normal(self.state_dim) / 2 if self.norm else None,
            "initial_state": normal(batch, heads, self.head_dim, self.state_dim) if self.initial else None,
        }
        # Numbers that single precision holds too, so that both sides see the same inputs.
        return {name: None if value is None else value.float().to(dtype) for name, value in values.items()}

    def scan_options(self) -> ScanOptions:
        """Settings of this case."""
        return ScanOptions(conv_silu=self.silu, discretisation="zoh" if self.zoh else "euler", chunk_size=16)


def split(tensors: dict[str, Tensor | None]) -> tuple[tuple[Tensor, ...], ScanWeights, Tensor | None]:
    """Rows with those of registers, weights, initial state."""
    rows = tuple(
        value for name in ("rows", "register_rows", "dt", "register_dt") if (value := tensors[name]) is not None
    )
    weights: Any = {name: tensors[name] for name in ScanWeights._fields}
    return rows, ScanWeights(**weights), tensors["initial_state"]


def leaves(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Those present, made to record gradients."""
    return {name: value.requires_grad_() for name, value in tensors.items() if value is not None}


def cotangents(output: SectionOutput) -> tuple[Tensor, ...]:
    """Random gradients of both outputs."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(part.shape, generator=generator).to(part.dtype) for part in output)
