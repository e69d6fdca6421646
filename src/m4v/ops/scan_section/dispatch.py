"""Which implementation runs the scan section: Triton kernels where they can, plain torch everywhere else.

`M4V_SCAN_BACKEND` (auto, triton or reference) is read once at import and overrides "auto"; an argument overrides both.
"""

import logging
import os
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.ops.scan_section import reference
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, SectionOutput

logger = logging.getLogger(__name__)

Backend = Literal["auto", "triton", "reference"]
ENVIRONMENT = "M4V_SCAN_BACKEND"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIMS = (16, 32, 64, 128)
# bf16 matrix units and asynchronous copies begin with Ampere.
OLDEST_GPU = (8, 0)
_BACKEND_NAMES = {"triton": "Triton kernels", "reference": "plain torch"}
_FROM_ENVIRONMENT = os.environ.get(ENVIRONMENT, "auto")


def scan_section(
    rows: Float[Tensor, "b n f"],
    register_rows: Float[Tensor, "k f"],
    dt: Float[Tensor, "b n g"],
    register_dt: Float[Tensor, "k g"],
    weights: ScanWeights,
    order: SectionOrder,
    options: ScanOptions,
    initial_state: Float[Tensor, "b g p s"] | None = None,
    *,
    backend: Backend = "auto",
) -> SectionOutput:
    """Mix rows along a scan order; see `reference.scan_section` for the arguments.

    Raises:
        UserError: if shapes or devices do not fit together, or the backend asked for cannot run.
    """
    _check_inputs(rows, register_rows, dt, register_dt, weights, order, initial_state)
    head_dim = weights.norm_weight.shape[1]
    state_dim = rows.shape[2] // (2 * weights.norm_weight.shape[0]) - head_dim
    arguments = (rows, register_rows, dt, register_dt, weights, order, options, initial_state)
    if choose_backend(rows.device, rows.dtype, head_dim, state_dim, backend) == "reference":
        return reference.scan_section(*arguments)
    # Kernels are imported where they are used: Triton is optional.
    from m4v.ops.scan_section import custom_op

    return custom_op.scan_section(*arguments)


@torch.compiler.assume_constant_result
def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, state_dim: int, backend: Backend = "auto"
) -> Literal["triton", "reference"]:
    """Decide once per device, dtype and width; a fallback on a GPU is logged once.

    Raises:
        UserError: if the backend asked for is unknown or cannot run.
    """
    return _choose(device, dtype, head_dim, state_dim, backend)


@lru_cache(maxsize=256)
def _choose(
    device: torch.device, dtype: torch.dtype, head_dim: int, state_dim: int, backend: Backend
) -> Literal["triton", "reference"]:
    asked = backend if backend != "auto" else _FROM_ENVIRONMENT
    if asked not in get_args(Backend):
        raise UserError(f"{ENVIRONMENT} is {asked!r}; expected one of {', '.join(get_args(Backend))}.")
    if asked == "reference":
        return "reference"
    obstacle = why_not_triton(device, dtype, head_dim, state_dim)
    if obstacle is None and (asked == "triton" or device.type == "cuda"):
        return "triton"
    if asked == "triton":
        remedy = f"Unset {ENVIRONMENT} or set it to auto" if backend == "auto" else "Leave the backend to auto"
        raise UserError(f"The Triton scan was asked for, but {obstacle}. {remedy} to use plain torch.")
    if device.type == "cuda":
        logger.warning("The scan runs in plain torch, because %s.", obstacle)
    return "reference"


def may_run_kernels(device: torch.device) -> bool:
    """Whether scans on a device can reach the kernels at all, so that plans are worth translating for them."""
    return _FROM_ENVIRONMENT == "triton" or (_FROM_ENVIRONMENT == "auto" and device.type == "cuda")


def why_not_triton(device: torch.device, dtype: torch.dtype, head_dim: int, state_dim: int) -> str | None:
    """What keeps the kernels from running here, as half a sentence; None if nothing does."""
    if find_spec("triton") is None:
        return "the package triton is not installed (on Linux: pip install triton)"
    if dtype not in DTYPES:
        return f"the rows are {_name(dtype)}, and the kernels take {', '.join(map(_name, DTYPES))}"
    if head_dim not in HEAD_DIMS or state_dim not in HEAD_DIMS:
        return f"heads are {head_dim} wide with states of {state_dim}, and the kernels take {HEAD_DIMS}"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        kind = "an AMD GPU" if device.type == "cuda" else device.type
        return f"the device is {kind}, and the kernels need an NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        found, needed = (".".join(map(str, version)) for version in (capability, OLDEST_GPU))
        return f"the GPU has compute capability {found}, and the kernels need {needed}"
    return None


def describe_backend(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, head_dim: int = 64, state_dim: int | None = None
) -> str:
    """Which implementation scans of a typical model would run on a device, and why, as one line; logs nothing."""
    obstacle = why_not_triton(device, dtype, head_dim, state_dim or head_dim)
    asked = _FROM_ENVIRONMENT
    if asked not in get_args(Backend):
        return f"none, because {ENVIRONMENT} is {asked!r}; expected one of {', '.join(get_args(Backend))}"
    if asked == "triton" and obstacle is not None:
        return f"none, because {ENVIRONMENT} is triton, but {obstacle}"
    if asked != "auto":
        return f"{_BACKEND_NAMES[asked]}, because {ENVIRONMENT} is {asked}"
    if obstacle is not None:
        return f"{_BACKEND_NAMES['reference']}, because {obstacle}"
    if device.type != "cuda":
        return f"{_BACKEND_NAMES['reference']}, because the kernels would run interpreted, on the {device.type}"
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return f"{_BACKEND_NAMES['triton']}, because this is an NVIDIA GPU of compute capability {capability}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_inputs(
    rows: Tensor,
    register_rows: Tensor,
    dt: Tensor,
    register_dt: Tensor,
    weights: ScanWeights,
    order: SectionOrder,
    initial_state: Tensor | None,
) -> None:
    batch, num_rows, row_width = rows.shape
    num_heads, head_dim = weights.norm_weight.shape
    state_dim = row_width // (2 * num_heads) - head_dim
    scan = order.is_real.shape[1]
    channels = row_width - num_heads * head_dim
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("rows", rows, (batch, num_rows, 2 * num_heads * (head_dim + state_dim))),
        ("register_rows", register_rows, (register_rows.shape[0], row_width)),
        ("dt", dt, (batch, num_rows, num_heads)),
        ("register_dt", register_dt, (register_rows.shape[0], num_heads)),
        ("A_log", weights.A_log, (num_heads,)),
        ("D", weights.D, (num_heads,)),
        ("dt_bias", weights.dt_bias, (num_heads,)),
        ("conv_bias", weights.conv_bias, (channels,)),
        ("norm_b", weights.norm_b, (state_dim,)),
        ("norm_c", weights.norm_c, (state_dim,)),
        ("initial_state", initial_state, (batch, num_heads, head_dim, state_dim)),
        ("is_real", order.is_real, (batch, scan)),
        ("index", order.rows.index, (batch, scan)),
        ("positions", order.rows.positions, (batch, num_rows)),
    ]
    if weights.conv_weight is not None:
        expected.append(("conv_weight", weights.conv_weight, (channels, weights.conv_weight.shape[1])))
    if order.kernel_index is not None:
        expected.append(("kernel_index", order.kernel_index.source, (batch, scan)))
    if order.rotary is not None:
        expected.append(("rotary", order.rotary.cos, (scan, state_dim // 2)))
    pairs = (("conv_weight", "conv_bias"), ("norm_b", "norm_c"))
    for first, second in pairs:
        if (getattr(weights, first) is None) != (getattr(weights, second) is None):
            raise UserError(f"Of {first} and {second} of the scan section one is missing; expected both or neither.")
    for name, value, shape in expected:
        if value is not None and tuple(value.shape) != shape:
            raise UserError(
                f"{name} of the scan section has shape {tuple(value.shape)}; expected {shape}, from rows of shape "
                f"{tuple(rows.shape)} with {num_heads} heads of width {head_dim}."
            )
    num_registers = order.rows.register_levels.shape[0]
    if num_registers and not register_rows.shape[0]:
        raise UserError(
            f"The scan order has {num_registers} registers, but register_rows has no rows; expected one row per kind. "
            "Build the order with registers=False for a mixer without registers."
        )
    for name, value in (("register_rows", register_rows), ("A_log", weights.A_log), ("is_real", order.is_real)):
        if value.device != rows.device:
            raise UserError(
                f"{name} of the scan section is on {value.device}, rows are on {rows.device}; move them to one device."
            )
