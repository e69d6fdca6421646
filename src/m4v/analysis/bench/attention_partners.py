"""Attention to compare with: every SDPA backend present, and frame-causal FlexAttention.

Queries, keys and values come from one matrix product, without QK-norm and rotation, which is in attention's favour.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.visibility import sequence_visibility

BACKENDS: dict[str, SDPBackend] = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_MATH_BYTES = {"cuda": 4 * 2**30, "cpu": 2**29}
"""Plain attention is measured where its scores fit into this; on a CPU it is the slowest by far."""
_EFFICIENT_TOKENS = 2**15
"""Beyond, the memory-efficient kernel takes seconds and is never the fastest."""
_CHECKED_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """Random heads, or tokens with the weights that make heads of them.

    Attributes:
        heads: Queries, keys and values, `1 g n p`; None where they are made from tokens.
        tokens: `1 n d`.
        qkv: Weight of the joint projection.
        output: Weight of the output matrix.
    """

    num_heads: int
    heads: tuple[Tensor, Tensor, Tensor] | None = None
    tokens: Tensor | None = None
    qkv: Tensor | None = None
    output: Tensor | None = None

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken of, as in training: everything."""
        tensors = self.heads or (self.tokens, self.qkv, self.output)
        return [tensor.requires_grad_() for tensor in tensors if tensor is not None]

    def attend(self, core: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Run a core between the projections, if there are any."""
        if self.heads is not None:
            return core(*self.heads)
        assert self.tokens is not None
        assert self.qkv is not None
        assert self.output is not None
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in F.linear(self.tokens, self.qkv).chunk(3, -1)
        )
        return F.linear(core(query, key, value).transpose(1, 2).flatten(2), self.output)


def attention_inputs(
    num_tokens: int, num_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype, *, with_projections: bool
) -> AttentionInputs:
    """Random inputs of one sample."""
    width = num_heads * head_dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)

    if not with_projections:
        query, key, value = (normal(1, num_heads, num_tokens, head_dim) for _ in range(3))
        return AttentionInputs(num_heads=num_heads, heads=(query, key, value))
    qkv, output = normal(3 * width, width) * width**-0.5, normal(width, width) * width**-0.5
    return AttentionInputs(num_heads=num_heads, tokens=normal(1, num_tokens, width), qkv=qkv, output=output)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Torch's attention with the backend that is allowed at the moment."""
    return F.scaled_dot_product_attention(query, key, value)


def backends_for(num_tokens: int, num_heads: int, device: torch.device) -> dict[str, SDPBackend]:
    """Backends worth trying; whether one runs is found out by running it."""
    if device.type != "cuda":
        wanted = ["flash"]
    else:
        wanted = ["cudnn", "flash", *(["efficient"] if num_tokens <= _EFFICIENT_TOKENS else [])]
    if 4 * num_heads * num_tokens**2 <= _MATH_BYTES.get(device.type, 0):
        wanted.append("math")
    return {name: BACKENDS[name] for name in wanted}


def only(backend: SDPBackend) -> Callable[[], AbstractContextManager[Any]]:
    """Allow one backend and no fallback."""
    return lambda: sdpa_kernel([backend])


@contextlib.contextmanager
def fastest_attention() -> Iterator[None]:
    """Let SDPA take the first that can of cuDNN, flash, memory-efficient and plain: the order of speed on Hopper.

    Torch's own order begins with flash, which is slower there; both sides of a comparison of networks get this one.
    """
    with sdpa_kernel(list(BACKENDS.values()), set_priority=True):
        yield


def check_core(core: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: AttentionInputs) -> float:
    """Relative error of some rows of a core against softmax attention in float32; dense visibility."""
    assert inputs.heads is not None
    query, key, value = (tensor.detach() for tensor in inputs.heads)
    rows = torch.linspace(0, query.shape[2] - 1, min(_CHECKED_ROWS, query.shape[2]), device=query.device).long()
    with torch.no_grad():
        found = core(query, key, value)[:, :, rows].float()
        scores = query[:, :, rows].float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        expected = scores.softmax(-1) @ value.float()
    return float((found - expected).norm() / expected.norm())


def check_frame_causal(
    core: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: AttentionInputs, layout: SequenceLayout
) -> float:
    """The same where a frame sees itself and earlier ones only, text with the first."""
    assert inputs.heads is not None
    query, key, value = (tensor.detach() for tensor in inputs.heads)
    rows = torch.linspace(0, query.shape[2] - 1, min(_CHECKED_ROWS, query.shape[2]), device=query.device).long()
    times = _frame_of(layout, query.device)
    with torch.no_grad():
        found = core(query, key, value)[:, :, rows].float()
        scores = query[:, :, rows].float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(times[rows][:, None] < times[None], -torch.inf)
        expected = scores.softmax(-1) @ value.float()
    return float((found - expected).norm() / expected.norm())


def prefix_core(layout: SequenceLayout, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Frame-causal attention as the network computes it: without a mask where the sequence is long."""
    text_mask = torch.ones(1, layout.num_text_tokens, dtype=torch.bool, device=device)
    visibility = sequence_visibility(layout, text_mask, True)

    def core(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return visibility.attend(*(tensor.transpose(1, 2) for tensor in (query, key, value))).transpose(1, 2)

    return core


def _frame_of(layout: SequenceLayout, device: torch.device) -> Tensor:
    times = [torch.full((frame.num_tokens,), time) for time, frame in enumerate(layout.frames)]
    return torch.cat([torch.zeros(layout.num_text_tokens, dtype=torch.long), *times]).to(device)


def frame_causal_core(layout: SequenceLayout, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention in which a frame sees itself and earlier ones (Sec. 3.1); text counts as the first frame.

    Raises:
        RuntimeError: if torch cannot compile it here.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    frame_of = _frame_of(layout, device)
    length = len(frame_of)

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return frame_of[row] >= frame_of[column]

    mask = create_block_mask(sees, None, None, length, length, device=str(device), _compile=True)
    compiled = torch.compile(flex_attention, dynamic=True)

    def core(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result: Tensor = compiled(query, key, value, block_mask=mask)
        return result

    return core
