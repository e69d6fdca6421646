"""The scan section built on other people's kernels: mamba-ssm's Triton files and flash-linear-attention.

Both lack re-composition, so rows are gathered before and brought back after, as whoever uses them must do. mamba-ssm's
package imports compiled extensions at its top; its Triton files do not need them, so empty namespace modules stand in
for the packages around them.
"""

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m4v.analysis.bench.scan_case import SectionInputs

CHUNKS = (64, 128, 256)
_GATE_EPS = 1e-5


@dataclass(frozen=True)
class Partner:
    """A scan section on foreign kernels.

    Attributes:
        name: Key in the report.
        scan: From x, dt (raw), B, C (`1 m g p`) and the section's inputs to y of the shape of x.
        convolve: Causal convolution with SiLU over `1 m e`, from channels-last rows, weight and bias.
        gate: Gated RMSNorm per head from y and z.
    """

    name: str
    scan: Callable[[Tensor, Tensor, Tensor, Tensor, SectionInputs], Tensor]
    convolve: Callable[[Tensor, Tensor, Tensor], Tensor]
    gate: Callable[[Tensor, Tensor, Tensor], Tensor]

    def prepare(self, inputs: SectionInputs, *, with_gradients: bool = False) -> "PreparedPartner":
        """Put everything where the kernels want it, outside of what is timed; no padding, no norm, no rotation."""
        index = inputs.order.kernel_index
        assert index is not None
        assert inputs.order.rotary is None
        assert inputs.weights.norm_b is None
        rows = torch.cat([inputs.rows, inputs.register_rows[None]], 1).detach()
        dt = torch.cat([inputs.dt, inputs.register_dt[None]], 1).detach()
        if with_gradients:
            rows.requires_grad_()
            dt.requires_grad_()
        order = inputs.order.rows
        return PreparedPartner(
            self, inputs, rows, dt, index.source[0].long(), order.positions[0], order.text_copy_positions[0]
        )


@dataclass
class PreparedPartner:
    """One input of a partner.

    Attributes:
        partner: Whose kernels.
        inputs: Weights and order.
        rows: Rows of tokens, then of registers.
        dt: Step sizes likewise.
        source: Row of each scan position.
        positions: Scan position of each token.
        copies: Scan positions of the second text copy.
    """

    partner: Partner
    inputs: SectionInputs
    rows: Tensor
    dt: Tensor
    source: Tensor
    positions: Tensor
    copies: Tensor
    weights: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        conv_weight, conv_bias = self.inputs.weights.conv_weight, self.inputs.weights.conv_bias
        assert conv_weight is not None
        assert conv_bias is not None
        dtype = self.rows.dtype
        self.weights = (conv_weight.detach().to(dtype), conv_bias.detach().to(dtype))

    def mix(self) -> Tensor:
        """The same result as our section's."""
        return self.mix_rows(self.rows)

    def mix_rows(self, rows: Tensor) -> Tensor:
        """The same with other rows of tokens and registers."""
        heads, head_dim = self.inputs.weights.norm_weight.shape
        width = heads * head_dim
        scanned = rows.index_select(1, self.source)
        steps = self.dt.index_select(1, self.source)
        z, xbc = scanned.split([width, 3 * width], -1)
        x, B, C = (
            part.unflatten(-1, (heads, head_dim)) for part in self.partner.convolve(xbc, *self.weights).split(width, -1)
        )
        y = self.partner.scan(x, steps, B, C, self.inputs)
        mixed = self.partner.gate(y, z, self.inputs.weights.norm_weight)
        tokens = mixed.index_select(1, self.positions)
        num_text = len(self.copies)
        copies = mixed.index_select(1, self.copies)
        return (
            torch.cat([tokens[:, :num_text] + copies, tokens[:, num_text:]], 1)
            if rows.requires_grad
            else _added(tokens, copies)
        )


def _added(tokens: Tensor, copies: Tensor) -> Tensor:
    tokens[:, : copies.shape[1]] += copies
    return tokens


def partners(mamba_folder: Path | None) -> tuple[list[Partner], list[str]]:
    """All partners that can be imported, and why others cannot."""
    found: list[Partner] = []
    missing: list[str] = []
    convolve: Callable[[Tensor, Tensor, Tensor], Tensor] = _torch_conv
    gate: Callable[[Tensor, Tensor, Tensor], Tensor] = _torch_gate
    try:
        convolve = _fla_conv(importlib.import_module("fla.modules.convolution").causal_conv1d)
    except Exception as error:  # noqa: BLE001 - foreign imports fail in many ways, and each is only reported
        missing.append(f"flash-linear-attention's convolution: {_reason(error)}; torch's takes its place")
    try:
        scan, gate = _mamba_kernels(mamba_folder)
        found += [Partner(f"mamba_ssm_{chunk}", partial(scan, chunk), convolve, gate) for chunk in CHUNKS]
    except Exception as error:  # noqa: BLE001 - likewise
        missing.append(f"mamba-ssm's Triton files: {_reason(error)}; name their folder with --mamba-ssm")
    try:
        simple_gla = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
        found.append(Partner("fla", partial(_fla_scan, simple_gla), convolve, gate))
    except Exception as error:  # noqa: BLE001 - likewise
        missing.append(f"flash-linear-attention: {_reason(error)}; pip install flash-linear-attention")
    return found, missing


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:160]


def _mamba_kernels(folder: Path | None) -> tuple[Callable[..., Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Import mamba-ssm's Triton files.

    Raises:
        ImportError: if they are not there.
    """
    if folder is None:
        spec = find_spec("mamba_ssm")
        locations = spec.submodule_search_locations if spec is not None else None
        if not locations:
            raise ImportError("the package mamba_ssm is not installed")
        folder = Path(next(iter(locations))).parent
    for name in _namespaces():
        module = types.ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = module
    combined = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    rmsnorm_fn = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated").rmsnorm_fn

    def scan(chunk: int, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, inputs: SectionInputs) -> Tensor:
        weights = inputs.weights
        A = -torch.exp(weights.A_log.detach())
        y: Tensor = combined(
            x, dt, A, B, C, chunk, D=weights.D.detach(), dt_bias=weights.dt_bias.detach(), dt_softplus=True
        )
        return y

    def gate(y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        flat = weight.detach().flatten()
        gated: Tensor = rmsnorm_fn(
            y.flatten(2), flat, None, z=z, eps=_GATE_EPS, group_size=weight.shape[1], norm_before_gate=False
        )
        return gated

    return scan, gate


def _namespaces() -> Iterator[str]:
    yield from ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils")


def _fla_conv(causal_conv1d: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def convolve(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result = causal_conv1d(rows, weight, bias, activation="silu")
        convolved: Tensor = result[0] if isinstance(result, tuple) else result
        return convolved

    return convolve


def _torch_conv(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    taps, channels = weight.shape[1], weight.shape[0]
    padded = F.pad(rows.transpose(1, 2), (taps - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=channels)).transpose(1, 2)


def _torch_gate(y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    gated = y.float() * F.silu(z.unflatten(-1, weight.shape).float())
    return (F.rms_norm(gated, weight.shape[1:], eps=_GATE_EPS) * weight).flatten(2).to(y.dtype)


def _fla_scan(
    simple_gla: Callable[..., Any], x: Tensor, dt: Tensor, B: Tensor, C: Tensor, inputs: SectionInputs
) -> Tensor:
    """Gated linear attention with one decay per head: values are the inputs times their step."""
    step = F.softplus(dt.float() + inputs.weights.dt_bias.detach())
    decay = -step * torch.exp(inputs.weights.A_log.detach())
    y, _ = simple_gla(C, B, (x * step[..., None]).to(x.dtype), g=decay, scale=1.0)
    return y + (x * inputs.weights.D.detach()[:, None]).to(x.dtype)
