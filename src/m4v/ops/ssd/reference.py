"""State-space duality (SSD) scan in plain torch: the definition every faster path is compared with.

Legend (Eqs. 1 to 3, per head): `A` negative decay rate, `dt` step size, `B` what the token writes to the state, `C`
what it reads from it, `x` the value written, `D` the skip. The recurrence is

    h_t = exp(dt_t A) h_{t-1} + w_t B_t x_t^T,      y_t = C_t^T h_t + D x_t,

with `w_t = dt_t` (Euler, as public Mamba code) or `w_t = dt_t phi(dt_t |A|)` (zero-order hold, Eq. 2). In chunks of
`chunk_size` tokens it becomes matrix products inside a chunk and a scan with one scalar decay per head between chunks.
Chunks are walked in groups that stay in the processor's caches; the scores of a whole sequence never exist.

Axes: b batch, n tokens, g heads, p head width, s state size, c chunks of a group, q tokens in a chunk.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Discretisation = Literal["euler", "zoh"]


class SSDOutput(NamedTuple):
    """Result of a scan: outputs of all tokens and the state after the last one."""

    y: Float[Tensor, "b n g p"]
    final_state: Float[Tensor, "b g p s"]


def input_weight(
    dt: Float[Tensor, "..."], A: Float[Tensor, "g"], discretisation: Discretisation
) -> Float[Tensor, "..."]:
    """Weight `w` of the input term for step sizes `dt` (last axis = heads).

    Source: Eq. 2 for "zoh"; "euler" is its first-order form, used by the public Mamba code.
    """
    if discretisation == "euler":
        return dt
    u = dt * A.abs()
    # phi(u) = (1 - e^-u) / u; the series takes over where the quotient loses digits.
    series = 1 - u / 2 + u * u / 6
    safe = torch.where(u > 1e-3, u, torch.ones_like(u))
    return dt * torch.where(u > 1e-3, -torch.expm1(-safe) / safe, series)


def default_chunk_size(head_dim: int, state_dim: int) -> int:
    """Tokens per set of matrix products where nobody chose a number.

    Scores cost `2Q(N + P)` operations per token and head, states `4NP`: they balance where a chunk is as long as heads
    are wide. Products of fewer than 32 rows waste vector units; beyond 64 the exponentials of a chunk outweigh the
    states it saves.
    """
    return 64 if min(head_dim, state_dim) > 32 else 32


def ssd(
    x: Float[Tensor, "b n g p"],
    dt: Float[Tensor, "b n g"],
    A: Float[Tensor, "g"],
    B: Float[Tensor, "b n g s"],
    C: Float[Tensor, "b n g s"],
    *,
    D: Float[Tensor, "g"] | None = None,
    initial_state: Float[Tensor, "b g p s"] | None = None,
    sequence_ids: Int[Tensor, "b n"] | None = None,
    chunk_size: int | None = None,
    discretisation: Discretisation = "euler",
) -> SSDOutput:
    """Scan a sequence causally.

    A token with `dt = 0` leaves the state as it is and writes nothing: this is how padding is masked.

    Args:
        dt: Step sizes after softplus, >= 0, fp32 or wider.
        A: Negative decay rates.
        initial_state: State before the first token; zero if absent. It belongs to the first packed sample.
        sequence_ids: Sample number of each token where several samples are packed in one row; nothing passes
            from one number to the next. Equal numbers must be adjacent.
        chunk_size: Tokens handled by one set of matrix products; changes speed, not the result. Unset means
            `default_chunk_size` of the widths.

    Returns:
        Outputs in the dtype of `x`, final state in the dtype of `dt`.

    Source: Eqs. 1 to 3; Mamba-2, sections 6 and 7.
    """
    batch, num_tokens, num_heads, head_dim = x.shape
    state_dim = B.shape[-1]
    chunk = min(chunk_size or default_chunk_size(head_dim, state_dim), num_tokens)
    state = dt.new_zeros(batch, num_heads, head_dim, state_dim)
    if initial_state is not None:
        state = initial_state.to(dt.dtype)
    per_group = chunk * max(1, _group_bytes(x.device) // (batch * num_heads * chunk * chunk * dt.element_size()))
    sequences: list[Tensor] = [x, dt, input_weight(dt, A, discretisation), B, C]
    if sequence_ids is not None:
        sequences += [sequence_ids, torch.cat([sequence_ids[:, :1], sequence_ids[:, :-1]], dim=1)]
    if num_tokens <= per_group:
        return SSDOutput(*_scan_group(chunk, A, D, state, *sequences))
    # Kept for the backward: what enters each group. Its scores are computed again.
    recompute = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    outputs = []
    for group in zip(*(sequence.split(per_group, dim=1) for sequence in sequences), strict=True):
        arguments = (chunk, A, D, state, *group)
        y, state = (
            checkpoint(_scan_group, *arguments, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else _scan_group(*arguments)
        )
        outputs.append(y)
    return SSDOutput(torch.cat(outputs, dim=1), state)


@torch.compiler.assume_constant_result
def num_threads() -> int:
    """Cores that torch uses; a constant to `torch.compile`, which cannot trace the question."""
    return torch.get_num_threads()


def _group_bytes(device: torch.device) -> int:
    """Size of the scores of one group: what the cores' private caches hold, or enough to keep a GPU busy."""
    return num_threads() * 2**20 if device.type == "cpu" else 2**28


def _scan_group(
    chunk: int,
    A: Tensor,
    D: Tensor | None,
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    weights: Tensor,
    B: Tensor,
    C: Tensor,
    sequence_ids: Tensor | None = None,
    ids_before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan neighbouring chunks, from the state before the first to the state after the last."""
    num_tokens = x.shape[1]
    padding = -num_tokens % chunk
    products = _product_dtype(x)
    # Head-major and contiguous, as batched products need it.
    x_c, B_c, C_c = (_chunks(t, chunk, padding).to(products, memory_format=torch.contiguous_format) for t in (x, B, C))
    decay = _chunks((dt * A)[..., None], chunk, padding).squeeze(-1).cumsum(-1)  # b g c q, local to the chunk
    ids = None if sequence_ids is None or ids_before is None else _chunk_ids(sequence_ids, ids_before, chunk, padding)

    writes = x_c * _chunks(weights[..., None], chunk, padding).to(products)
    scores = torch.matmul(C_c, B_c.transpose(-1, -2)) * _pairwise_decay(decay, ids)
    within = torch.matmul(scores.to(products), writes)

    entering, state = _pass_states(decay, B_c, writes, state, ids)
    carried = torch.exp(decay)
    if ids is not None:
        carried = carried * ids.continues
    readers, states = C_c * carried[..., None].to(products), entering.to(products).transpose(-1, -2)
    y = torch.baddbmm(within.flatten(0, 2), readers.flatten(0, 2), states.flatten(0, 2)).view_as(x_c)
    y = y.flatten(2, 3)[:, :, :num_tokens].transpose(1, 2).to(x.dtype)
    return (y if D is None else torch.addcmul(y, x, D[:, None].to(x.dtype))), state


def _half_precision_units(capabilities: Mapping[str, object]) -> frozenset[torch.dtype]:
    """Half-precision types that this processor multiplies natively; emulation is slower than single precision."""
    units = {
        torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
        torch.float16: ("avx512_fp16", "amx_fp16", "avx10_1", "avx10_2", "fp16_arith"),
    }
    return frozenset(dtype for dtype, names in units.items() if any(capabilities.get(name) for name in names))


_CPU_HALF_PRECISION = _half_precision_units(getattr(torch.cpu, "get_capabilities", dict)())


def _product_dtype(x: Tensor) -> torch.dtype:
    if x.device.type != "cpu" or x.dtype in _CPU_HALF_PRECISION:
        return x.dtype
    return torch.promote_types(x.dtype, torch.float32)


class _ChunkIds(NamedTuple):
    """Which tokens of a chunk belong together, for packed samples (shapes b 1 c q ...)."""

    same: Tensor  # query and key token are of one sample
    continues: Tensor  # token is of the sample in which the previous chunk ended
    stays: Tensor  # token is of the sample in which this chunk ends
    unbroken: Tensor  # the whole chunk is of the sample in which the previous chunk ended


def _chunk_ids(sequence_ids: Tensor, ids_before: Tensor, chunk: int, padding: int) -> _ChunkIds:
    ids = torch.cat([sequence_ids, sequence_ids[:, -1:].expand(-1, padding)], dim=1)
    ids = ids.unflatten(1, (-1, chunk))[:, None]
    before = ids_before[:, ::chunk][:, None, :, None]
    continues, stays = ids == before, ids == ids[..., -1:]
    return _ChunkIds(ids[..., :, None] == ids[..., None, :], continues, stays, continues[..., -1])


def _chunks(t: Tensor, chunk: int, padding: int) -> Tensor:
    if padding:
        t = F.pad(t, (0, 0, 0, 0, 0, padding))
    chunks: Tensor = t.transpose(1, 2).unflatten(2, (-1, chunk))
    return chunks


def _pairwise_decay(decay: Tensor, ids: _ChunkIds | None) -> Tensor:
    """exp(s_i - s_j) for j <= i of one sample, else 0."""
    chunk = decay.shape[-1]
    visible = torch.ones(chunk, chunk, dtype=torch.bool, device=decay.device).tril()
    if ids is not None:
        visible = visible & ids.same
    difference = decay[..., :, None] - decay[..., None, :]
    return difference.masked_fill_(~visible, -torch.inf).exp_()


def _pass_states(
    decay: Tensor, B_c: Tensor, writes: Tensor, state: Tensor, ids: _ChunkIds | None
) -> tuple[Tensor, Tensor]:
    """States entering every chunk (b g c p s) and the state leaving the last one."""
    to_end = torch.exp(decay[..., -1:] - decay)
    if ids is not None:
        to_end = to_end * ids.stays
    updates = torch.matmul((writes * to_end[..., None].to(writes.dtype)).transpose(-1, -2), B_c).to(decay.dtype)
    total = torch.exp(decay[..., -1])
    if ids is not None:
        total = total * ids.unbroken
    entering = []
    for update, kept in zip(updates.unbind(2), total[..., None, None].unbind(2), strict=True):
        entering.append(state)
        state = torch.addcmul(update, kept, state)
    return torch.stack(entering, dim=2), state
