"""Temporal branch: attention over time on frames pooled to the coarsest level (Sec. 3.3, Fig. 2b right).

History frames are averaged down to the coarsest grid; the noisy frame is cut into phases of that grid (`time_plan`).
Each becomes one time token: its query is the concatenation of its positions' queries, which makes the score of two time
tokens the sum over positions of their per-head products. Projections act per position, so the branch works at any
resolution, and, being linear, after pooling. There is no output matrix; a learned gate starts at zero.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import TemporalBranchConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.fused_projections import SharesInput
from m4v.models.denoiser.normalization import HeadNorm
from m4v.models.denoiser.time_plan import TimePlan
from m4v.ops.cell_pooling.pooling import pool, spread
from m4v.ops.rope import RotaryTable, apply_rotary
from m4v.ops.ssd.reference import ssd
from m4v.ops.time_attention import reference
from m4v.ops.time_attention.dispatch import runs_kernels
from m4v.ops.time_attention.interface import HeadNorms


class BranchSizes(Protocol):
    """What a network's configuration tells its temporal branches."""

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries, keys and values."""

    @property
    def attention_head_dim(self) -> int:
        """Channels of a head."""

    @property
    def temporal_branch(self) -> TemporalBranchConfig:
        """Causality and kind of the mixing over time."""


class NoTemporalBranch(nn.Module):
    """Leaves tokens as they are: Table 3 without "Temp", and attention blocks."""

    def forward(self, tokens: Tensor, modulated: Tensor, context: SequenceContext) -> Tensor:
        return tokens


class TimeMixer(SharesInput):
    """Attention over time tokens and a learned gate: what temporal branches of both bases share.

    `causal` lets a history frame see itself and earlier ones; the phases of the noisy frames always see all history and
    each other. With `mixer = "ssd"` a scan over time takes the place of softmax (its phases then see earlier phases
    only).

    Source: Sec. 3.3 "Temporal Branch"; the alternative: Sec. 5 "Limitations".
    """

    def __init__(self, config: BranchSizes) -> None:
        super().__init__()
        heads = config.num_attention_heads
        width = heads * config.attention_head_dim
        self.num_heads = heads
        self.head_dim = config.attention_head_dim
        self.causal = config.temporal_branch.causal
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q: nn.Module = HeadNorm(config.attention_head_dim)
        self.norm_k: nn.Module = HeadNorm(config.attention_head_dim)
        self.gate = nn.Parameter(torch.zeros(width))
        self.uses_scan = config.temporal_branch.mixer == "ssd"
        if self.uses_scan:
            self.A_log = nn.Parameter(torch.zeros(heads))
            self.dt_bias = nn.Parameter(torch.full((heads,), -1.0))

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Queries, keys and values, which read the same cells."""
        return self.to_q, self.to_k, self.to_v

    def residual(
        self, modulated: Float[Tensor, "b v d"], plan: TimePlan, rotary: RotaryTable | None = None
    ) -> Float[Tensor, "b v d"]:
        """What is to be added to the video tokens, gate included.

        Args:
            modulated: Video part of the block's modulated input.
            plan: Time tokens of the layout.
            rotary: Rotations of queries and keys, one row per position of the time tokens; none on the pyramid base.
        """
        if plan.cells is None:
            return self._mix(modulated, plan, rotary)
        # The gate meets the cells, which are fewer than the tokens.
        return spread(self._mix(pool(modulated, plan.cells), plan, rotary), plan.cells)

    def _mix(self, cells: Float[Tensor, "b c d"], plan: TimePlan, rotary: RotaryTable | None) -> Float[Tensor, "b c d"]:
        times = plan.times.shape[0]
        by_kernels = not self.uses_scan and runs_kernels(cells, times, self.head_dim)
        if by_kernels and times == 1:
            return self.gate * self.to_v(cells)  # a single time has nothing to choose from
        mask = plan.causal_mask if self.causal else None
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in self._project(cells))
        norms = self._head_norms() if by_kernels else None
        if norms is None:
            query, key = self._normalise(query, key)
        if rotary is not None:
            query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
        gate = plan.sharing.own(self.gate.view(self.num_heads, -1)).flatten()

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if by_kernels:
                # Kernels are imported where they are used: Triton is optional.
                from m4v.ops.time_attention import custom_op

                mixed = custom_op.time_attention(query, key, value, gate, times, mask, norms)
            elif self.uses_scan:
                mixed = gate * self._scan(query, key, value, plan)
            else:
                mixed = reference.time_attention(query, key, value, gate, times, mask)
            return mixed.unflatten(-1, value.shape[2:])

        return plan.sharing.mix(attend, query, key, value).flatten(2)

    def _project(self, cells: Float[Tensor, "b c d"]) -> tuple[Float[Tensor, "b c d"], ...]:
        return self.project(cells)

    def _normalise(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm_q(query), self.norm_k(key)

    def _head_norms(self) -> HeadNorms | None:
        """Norms that kernels may do; none where something has to happen around the modules (offloading)."""
        if any(not isinstance(norm, HeadNorm) or is_watched(norm) for norm in (self.norm_q, self.norm_k)):
            return None
        assert isinstance(self.norm_q, HeadNorm)
        assert isinstance(self.norm_k, HeadNorm)
        return HeadNorms(self.norm_q.weight, self.norm_k.weight, self.norm_q.eps)

    def _scan(self, query: Tensor, key: Tensor, value: Tensor, plan: TimePlan) -> Float[Tensor, "b c d"]:
        times = plan.times.shape[0]
        query, key, value = (rearrange(t, "b (f s) g p -> b f g (s p)", f=times) for t in (query, key, value))
        wide = torch.promote_types(value.dtype, torch.float32)
        A_log, dt_bias = (plan.sharing.own(weight).to(wide) for weight in (self.A_log, self.dt_bias))
        step = F.softplus(dt_bias).expand(*value.shape[:3])
        mixed = ssd(value, step, -torch.exp(A_log), key, query * query.shape[-1] ** -0.5).y
        return rearrange(mixed, "b f g (s p) -> b (f s) (g p)", p=self.head_dim)


def is_watched(module: nn.Module) -> bool:
    """Whether something has to happen around a call of a module, such as bringing its parameters."""
    return "forward" in module.__dict__ or bool(module._forward_pre_hooks) or bool(module._forward_hooks)


class TemporalBranch(TimeMixer):
    """The branch of the pyramid base, whose blocks hold text and video in one sequence."""

    def forward(
        self, tokens: Float[Tensor, "b n d"], modulated: Float[Tensor, "b n d"], context: SequenceContext
    ) -> Float[Tensor, "b n d"]:
        """Add the branch's output to the video part of `tokens`; it reads the block's modulated input."""
        assert context.time_plan is not None
        num_text = context.num_text_tokens
        residual = self.residual(modulated[:, num_text:], context.time_plan)
        return torch.cat([tokens[:, :num_text], tokens[:, num_text:] + residual], dim=1)
