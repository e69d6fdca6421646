"""Operations of the mixer written straight from their formulas, one token at a time: what `m4v.ops` is compared with.

Nothing here is vectorised over tokens and nothing is shared with the library. Run it in float64.
"""

import torch
from torch import Tensor


def ssd_recurrence(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    discretisation: str = "euler",
) -> tuple[Tensor, Tensor]:
    """`h_t = exp(dt_t A) h_{t-1} + w_t x_t B_t^T`, `y_t = h_t C_t + D x_t`, token by token.

    Shapes: x `b n g p`, dt `b n g`, A and D `g`, B and C `b n g s`, states `b g p s`.

    Zero-order hold keeps the input constant over a step: w_t is the
    integral of exp(A s) from 0 to dt, (exp(dt A) - 1) / A.
    """
    batch, num_tokens, heads, head_dim = x.shape
    state = x.new_zeros(batch, heads, head_dim, B.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for t in range(num_tokens):
        step = dt[:, t]
        weight = step if discretisation == "euler" else torch.expm1(step * A) / A
        write = weight[..., None, None] * x[:, t, :, :, None] * B[:, t, :, None, :]
        state = torch.exp(step * A)[..., None, None] * state + write
        y = (state * C[:, t, :, None, :]).sum(-1)
        outputs.append(y if D is None else y + D[:, None] * x[:, t])
    return torch.stack(outputs, dim=1), state


def conv_recurrence(x: Tensor, weight: Tensor, bias: Tensor | None = None, history: Tensor | None = None) -> Tensor:
    """`y[t] = bias + sum_k weight[k] x[t - (width - 1) + k]`; rows before the first are `history` or zero."""
    batch, num_tokens, channels = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, width - 1, channels) if history is None else history
    outputs = []
    for t in range(num_tokens):
        y = x.new_zeros(batch, channels)
        for k in range(width):
            source = t - (width - 1) + k
            row = x[:, source] if source >= 0 else before[:, source + width - 1]
            y = y + weight[:, k] * row
        outputs.append(y if bias is None else y + bias)
    return torch.stack(outputs, dim=1)


def gated_norm_formula(y: Tensor, z: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """`u = y * z / (1 + e^-z)`, `u / sqrt(mean(u^2) + eps) * weight` over each head's channels (last axis)."""
    u = y * z / (1 + torch.exp(-z))
    return u / torch.sqrt((u * u).sum(-1, keepdim=True) / u.shape[-1] + eps) * weight


def ssd_inputs(
    num_tokens: int, batch: int = 2, heads: int = 3, head_dim: int = 5, state_dim: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """Random float64 inputs with decays from slow to fast, as after Mamba-2's initialisation."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    step = torch.rand(batch, num_tokens, heads, generator=generator, dtype=torch.float64)
    return {
        "x": normal(batch, num_tokens, heads, head_dim),
        "dt": 10 ** (-3 + 2 * step),
        "A": -torch.linspace(1, 16, heads, dtype=torch.float64),
        "B": normal(batch, num_tokens, heads, state_dim),
        "C": normal(batch, num_tokens, heads, state_dim),
        "D": normal(heads),
        "initial_state": normal(batch, heads, head_dim, state_dim),
    }
