"""State-space duality (SSD) scan in plain torch: the definition every faster path is compared with.

Legend (Eqs. 1 to 3, per head): `A` negative decay rate, `dt` step size, `B` what the token writes to the state, `C`
what it reads from it, `x` the value written, `D` the skip. The recurrence is

    h_t = exp(dt_t A) h_{t-1} + w_t B_t x_t^T,      y_t = C_t^T h_t + D x_t,

with `w_t = dt_t` (Euler, as public Mamba code) or `w_t = dt_t phi(dt_t |A|)` (zero-order hold, Eq. 2). In chunks of
`chunk_size` tokens it becomes matrix products inside a chunk and a scan with one scalar decay per head between chunks.

Axes: b batch, n tokens, g heads, p head width, s state size, c chunks, q tokens in a chunk.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

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
    chunk_size: int = 64,
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
        chunk_size: Tokens handled by one set of matrix products; changes speed, not the result.

    Returns:
        Outputs in the dtype of `x`, final state in the dtype of `dt`.

    Source: Eqs. 1 to 3; Mamba-2, sections 6 and 7.
    """
    num_tokens = x.shape[1]
    chunk = min(chunk_size, num_tokens)
    weights = input_weight(dt, A, discretisation)
    padding = -num_tokens % chunk
    x_c, B_c, C_c = (_chunks(t, chunk, padding) for t in (x, B, C))  # b g c q (p or s)
    w_c = _chunks(weights[..., None], chunk, padding)  # b g c q 1
    decay = _chunks((dt * A)[..., None], chunk, padding).squeeze(-1).cumsum(-1)  # b g c q, local to the chunk
    ids = None if sequence_ids is None else _chunk_ids(sequence_ids, chunk, padding)

    writes = (x_c * w_c.to(x.dtype)).to(x.dtype)
    same_chunk = _pairwise_decay(decay, ids)
    scores = torch.matmul(C_c, B_c.transpose(-1, -2)) * same_chunk
    y = torch.matmul(scores.to(x.dtype), writes)

    entering, final_state = _pass_states(decay, B_c, writes, initial_state, ids)
    carried = torch.exp(decay)
    if ids is not None:
        carried = carried * ids.continues
    y = y + carried[..., None].to(x.dtype) * torch.matmul(C_c, entering.to(C.dtype).transpose(-1, -2))
    y = y.flatten(2, 3)[:, :, :num_tokens].transpose(1, 2)
    if D is not None:
        y = y + D[:, None].to(x.dtype) * x
    return SSDOutput(y.to(x.dtype), final_state)


class _ChunkIds(NamedTuple):
    """Which tokens of a chunk belong together, for packed samples (shapes b 1 c q ...)."""

    same: Tensor  # query and key token are of one sample
    continues: Tensor  # token is of the sample in which the previous chunk ended
    stays: Tensor  # token is of the sample in which this chunk ends
    unbroken: Tensor  # the whole chunk is of the sample in which the previous chunk ended


def _chunk_ids(sequence_ids: Tensor, chunk: int, padding: int) -> _ChunkIds:
    ids = torch.cat([sequence_ids, sequence_ids[:, -1:].expand(-1, padding)], dim=1)
    ids = ids.unflatten(1, (-1, chunk))[:, None]
    before = torch.cat([ids[:, :, :1, :1], ids[:, :, :-1, -1:]], dim=2)
    continues, stays = ids == before, ids == ids[..., -1:]
    return _ChunkIds(ids[..., :, None] == ids[..., None, :], continues, stays, continues[..., -1])


def _chunks(t: Tensor, chunk: int, padding: int) -> Tensor:
    if padding:
        t = F.pad(t, (0, 0, 0, 0, 0, padding))
    chunks: Tensor = t.transpose(1, 2).unflatten(2, (-1, chunk))
    return chunks


def _pairwise_decay(decay: Tensor, ids: _ChunkIds | None) -> Tensor:
    """exp(s_i - s_j) for j <= i, else 0; the clamp keeps the masked triangle from overflowing to inf."""
    difference = (decay[..., :, None] - decay[..., None, :]).clamp(max=0.0)
    pairwise = torch.exp(difference).tril()
    return pairwise if ids is None else pairwise * ids.same


def _pass_states(
    decay: Tensor, B_c: Tensor, writes: Tensor, initial_state: Tensor | None, ids: _ChunkIds | None
) -> tuple[Tensor, Tensor]:
    """States entering every chunk (b g c p s) and the state leaving the last one."""
    to_end = torch.exp(decay[..., -1:] - decay)
    if ids is not None:
        to_end = to_end * ids.stays
    updates = torch.matmul((writes * to_end[..., None].to(writes.dtype)).transpose(-1, -2), B_c).to(decay.dtype)
    total = torch.exp(decay[..., -1])
    if ids is not None:
        total = total * ids.unbroken
    state = torch.zeros_like(updates[:, :, 0]) if initial_state is None else initial_state.to(decay.dtype)
    entering = []
    for index in range(updates.shape[2]):
        entering.append(state)
        state = total[:, :, index, None, None] * state + updates[:, :, index]
    return torch.stack(entering, dim=2), state
