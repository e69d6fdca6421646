"""The re-composition plan: Fig. 2c as index data.

`[Z, X] -> [Z_l | r, x0 | r, x1 | ... | r, xi | Z_r]`: text at both ends with its padding outermost, each frame preceded
by the register of its level, each frame's tokens in the layer's scan path. For one layout and one path this is one
index vector over source rows (text, video, registers) and its inverse, built once and used by every layer and step.
Only the left text copy depends on the batch, because its padding has to move to the front; `bind` adds that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.recomposition.scan_paths import scan_path
from m4v.ops.recompose.reference import RowOrder
from m4v.ops.rope import RotaryTable
from m4v.ops.scan_section.interface import check_order


@dataclass(frozen=True)
class RecompositionPlan:
    """Scan order of one layout along one path, for full-length text.

    Source rows are numbered text first, then video, then one row per register kind.

    Attributes:
        index: Source row of each scan position.
        video_positions: Scan position of each video token.
        register_positions: Scan positions of registers, one per frame; empty if switched off.
        register_levels: Kind of each register.
        num_text_tokens: Length of one text copy.
        text_at_both_ends: Whether a second copy closes the sequence.
        num_prefix: Scan positions before the first noisy frame and its register: the seam between what history and
            prompt decide and what changes at every denoising step.
    """

    index: Int[Tensor, "scan"]
    video_positions: Int[Tensor, "v"]
    register_positions: Int[Tensor, "r"]
    register_levels: Int[Tensor, "r"]
    num_text_tokens: int
    text_at_both_ends: bool
    num_prefix: int

    @property
    def length(self) -> int:
        """Scan positions in all."""
        return self.index.shape[0]

    def bind(self, text_mask: Bool[Tensor, "b l"]) -> "BoundPlan":
        """Place the prompts of a batch: padding of the left copy goes far left, of the right copy far right."""
        batch, num_text = text_mask.shape
        assert num_text == self.num_text_tokens, (num_text, self.num_text_tokens)
        device = text_mask.device
        padding = (~text_mask).sum(1, keepdim=True)
        row = torch.arange(num_text, device=device)
        left_index = (row - padding) % max(num_text, 1)
        left_positions = (row + padding) % max(num_text, 1)

        plan = self.to(device)
        # Register positions read row 0 in the token gather and are overwritten with their register.
        shared = torch.where(plan.index < num_text + plan.video_positions.shape[0], plan.index, 0)
        index = torch.cat([left_index, shared[num_text:].expand(batch, -1)], dim=1)
        positions = torch.cat([left_positions, plan.video_positions.expand(batch, -1)], dim=1)
        copies = num_text if self.text_at_both_ends else 0
        copy_positions = torch.arange(self.length - copies, self.length, device=device).expand(batch, -1)

        is_real = torch.ones(batch, self.length, dtype=torch.bool, device=device)
        is_real[:, :num_text] = row >= padding
        if copies:
            is_real[:, self.length - copies :] = text_mask
        order = RowOrder(index, positions, copy_positions, plan.register_positions, plan.register_levels)
        return BoundPlan(order=order, is_real=is_real, plan=plan)

    def to(self, device: torch.device) -> "RecompositionPlan":
        """The same plan on a device."""
        if self.index.device == device:
            return self
        return RecompositionPlan(
            index=self.index.to(device),
            video_positions=self.video_positions.to(device),
            register_positions=self.register_positions.to(device),
            register_levels=self.register_levels.to(device),
            num_text_tokens=self.num_text_tokens,
            text_at_both_ends=self.text_at_both_ends,
            num_prefix=self.num_prefix,
        )


@dataclass(frozen=True)
class BoundPlan:
    """A plan with the prompts of one batch placed.

    Attributes:
        order: Index data for `ops.recompose`.
        is_real: False on text padding, in scan order.
        plan: The plan it was bound from, on the same device.
    """

    order: RowOrder
    is_real: Bool[Tensor, "b scan"]
    plan: RecompositionPlan

    def rotary(self, table: RotaryTable) -> RotaryTable:
        """Bring a rotation table of token rows into scan order; registers and text keep the identity rotation."""
        num_registers = int(self.plan.register_positions.numel() > 0)
        identity = RotaryTable(torch.ones_like(table.cos[:num_registers]), torch.zeros_like(table.sin[:num_registers]))
        padded = RotaryTable(torch.cat([table.cos, identity.cos]), torch.cat([table.sin, identity.sin]))
        return padded.select(self.plan.index.clamp(max=table.cos.shape[0]))


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # a plan that prediction made must serve training too
def recomposition_plan(
    layout: SequenceLayout, path: str, config: RecompositionConfig, device: torch.device, num_register_kinds: int
) -> RecompositionPlan:
    """Build (or recall) the plan of a layout along one scan path.

    Args:
        num_register_kinds: Registers there are; kernels read them unchecked, so they are counted here.

    Raises:
        UserError: if a frame asks for a register that is not there.

    Source: Sec. 3.3 "MM-Token Re-Composition", Fig. 2c, Appendix A.1.
    """
    num_text = layout.num_text_tokens
    first_register_row = num_text + layout.num_video_tokens
    segments: list[np.ndarray] = [np.arange(num_text)]
    register_positions: list[int] = []
    num_prefix = length = num_text
    for number, (frame, start) in enumerate(zip(layout.frames, layout.frame_starts, strict=False)):
        if number == layout.num_history_frames:
            num_prefix = length
        if config.registers:
            register_positions.append(length)
            segments.append(np.array([first_register_row + frame.register_kind]))
            length += 1
        segments.append(num_text + start + scan_path(path, frame.height, frame.width, config.continuous))
        length += frame.num_tokens
    if config.text_at_both_ends:
        segments.append(np.arange(num_text))
    index = np.concatenate(segments)
    video = (index >= num_text) & (index < first_register_row)
    video_positions = np.empty(layout.num_video_tokens, dtype=np.int64)
    video_positions[index[video] - num_text] = np.flatnonzero(video)
    kinds = [frame.register_kind for frame in layout.frames] if config.registers else []
    plan = RecompositionPlan(
        index=_tensor(index),
        video_positions=_tensor(video_positions),
        register_positions=_tensor(register_positions),
        register_levels=_tensor(kinds),
        num_text_tokens=num_text,
        text_at_both_ends=config.text_at_both_ends,
        num_prefix=num_prefix,
    )
    # Where the numbers still are: reading them back from a device would wait for it.
    check_order(plan.bind(torch.ones(1, num_text, dtype=torch.bool, device="cpu")).order, num_register_kinds)
    return plan.to(device)


def _tensor(values: Sequence[int] | np.ndarray) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device="cpu")
