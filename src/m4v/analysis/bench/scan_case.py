"""Inputs of the scan section over real re-composition plans, and the check that must hold before it is timed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import RecompositionConfig
from m4v.models.denoiser.positions import layout_rotary
from m4v.models.denoiser.recomposition.plan import recomposition_plan
from m4v.ops.scan_section import dispatch, reference
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder, kernel_index

_TEXT_TOKENS = 128
_FRAME = FrameGrid(2, 48, 80)
_NUM_KINDS = 3


@dataclass(frozen=True, kw_only=True)
class SectionInputs:
    """Arguments of `dispatch.scan_section`, batch 1 unless said otherwise.

    Attributes:
        rows: [z | x | B | C] of every token.
        register_rows: The same of the registers.
        dt: Step sizes before bias and softplus.
        register_dt: The same of the registers.
        weights: Learned parameters.
        order: Where rows go.
        options: Settings.
    """

    rows: Tensor
    register_rows: Tensor
    dt: Tensor
    register_dt: Tensor
    weights: ScanWeights
    order: SectionOrder
    options: ScanOptions

    def mix(self) -> Tensor:
        """Mixed rows in token order, by the backend of the device."""
        return dispatch.scan_section(
            self.rows, self.register_rows, self.dt, self.register_dt, self.weights, self.order, self.options
        ).mixed

    def mix_by_reference(self) -> Tensor:
        """The same by the definition in plain torch."""
        return reference.scan_section(
            self.rows, self.register_rows, self.dt, self.register_dt, self.weights, self.order, self.options
        ).mixed

    @property
    def leaves(self) -> list[Tensor]:
        """Everything that takes gradients, made to take them."""
        tensors = (self.rows, self.register_rows, self.dt, self.register_dt, *self.weights)
        return [tensor.requires_grad_() for tensor in tensors if tensor is not None]

    @property
    def num_bytes(self) -> int:
        """Of the rows, which are nearly all of the input."""
        return self.rows.nbytes

    def to(self, dtype: torch.dtype) -> "SectionInputs":
        """The same values in another precision, as new leaves."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(dtype).clone()

        return self._with_tensors([cast(tensor) for tensor in self._tensors()])

    def on_cpu(self) -> "SectionInputs":
        """The same on the CPU."""
        moved = self._with_tensors([None if t is None else t.detach().cpu() for t in self._tensors()])
        rows = type(self.order.rows)(*(tensor.cpu() for tensor in self.order.rows))
        rotary = None if self.order.rotary is None else self.order.rotary.to(torch.device("cpu"))
        return replace(moved, order=SectionOrder(rows, self.order.is_real.cpu(), rotary))

    def heads(self, chosen: Sequence[int]) -> "SectionInputs":
        """The same with some of the heads, which do not know of each other."""
        count, head_dim = self.weights.norm_weight.shape
        state_dim = self.rows.shape[2] // (2 * count) - head_dim
        index = torch.as_tensor(list(chosen), device=self.rows.device)

        def channels(tensor: Tensor, widths: Sequence[int], dim: int) -> Tensor:
            parts = tensor.split([count * width for width in widths], dim)
            picked = [part.unflatten(dim, (count, -1)).index_select(dim % tensor.ndim, index) for part in parts]
            return torch.cat([part.flatten(dim % tensor.ndim, dim % tensor.ndim + 1) for part in picked], dim)

        row_widths, conv_widths = (head_dim, head_dim, state_dim, state_dim), (head_dim, state_dim, state_dim)
        weights = self.weights
        assert weights.conv_weight is not None
        assert weights.conv_bias is not None
        return replace(
            self,
            rows=channels(self.rows.detach(), row_widths, -1),
            register_rows=channels(self.register_rows.detach(), row_widths, -1),
            dt=self.dt.detach()[..., index],
            register_dt=self.register_dt.detach()[..., index],
            weights=ScanWeights(
                conv_weight=channels(weights.conv_weight.detach(), conv_widths, 0),
                conv_bias=channels(weights.conv_bias.detach(), conv_widths, 0),
                A_log=weights.A_log.detach()[index],
                D=weights.D.detach()[index],
                dt_bias=weights.dt_bias.detach()[index],
                norm_weight=weights.norm_weight.detach()[index],
                norm_b=weights.norm_b,
                norm_c=weights.norm_c,
            ),
        )

    def _tensors(self) -> list[Tensor | None]:
        return [self.rows, self.register_rows, self.dt, self.register_dt, *self.weights]

    def _with_tensors(self, tensors: Sequence[Tensor | None]) -> "SectionInputs":
        rows, register_rows, dt, register_dt, *weights = tensors
        assert rows is not None
        assert register_rows is not None
        assert dt is not None
        assert register_dt is not None
        return replace(
            self,
            rows=rows,
            register_rows=register_rows,
            dt=dt,
            register_dt=register_dt,
            weights=ScanWeights(*weights),  # type: ignore[arg-type]  # optional ones stay where they were
        )


def layout_of_length(num_tokens: int) -> SequenceLayout:
    """A sequence with exactly so many tokens, text included: whole 768p frames after one smaller frame.

    128 text tokens, a quarter of the sequence where it is too short for these; 3,968 and 15,488 tokens are then as long
    as calls of the paper's videos, though made of other frames.
    """
    text = min(_TEXT_TOKENS, num_tokens // 4)
    whole, rest = divmod(num_tokens - text, _FRAME.num_tokens)
    frames = [_FRAME] * whole
    if rest:
        columns = next(columns for columns in (40, 16, 8, 4, 2, 1) if rest % columns == 0)
        frames.insert(0, FrameGrid(0, rest // columns, columns))
    return SequenceLayout(tuple(frames), text)


def section_inputs(
    layout: SequenceLayout,
    num_heads: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    path: str = "a",
    norm_and_rope: bool = True,
    seed: int = 0,
    real_text: int | None = None,
) -> SectionInputs:
    """Random inputs for one sample.

    Args:
        norm_and_rope: Whether B and C are normalised and turned.
        real_text: Text tokens that are no padding; all if absent.
    """
    generator = torch.Generator(device).manual_seed(seed)
    width, num_rows = num_heads * head_dim, layout.num_text_tokens + layout.num_video_tokens

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    mask = torch.arange(layout.num_text_tokens, device=device)[None] < (
        layout.num_text_tokens if real_text is None else real_text
    )
    bound = recomposition_plan(layout, path, RecompositionConfig(), device, _NUM_KINDS).bind(mask)
    side = 2 * (head_dim // 6)
    rotary = bound.rotary(layout_rotary(layout, (head_dim - 2 * side, side, side), device)) if norm_and_rope else None
    ones = torch.ones(head_dim, device=device)
    weights = ScanWeights(
        conv_weight=normal(3 * width, 4) / 2,
        conv_bias=normal(3 * width) / 10,
        A_log=torch.linspace(1, 16, num_heads, device=device).log(),
        D=torch.ones(num_heads, device=device),
        dt_bias=normal(num_heads) - 4,
        norm_weight=torch.ones(num_heads, head_dim, device=device),
        norm_b=ones.clone() if norm_and_rope else None,
        norm_c=ones.clone() if norm_and_rope else None,
    )
    return SectionInputs(
        rows=normal(1, num_rows, 4 * width).to(dtype),
        register_rows=normal(_NUM_KINDS, 4 * width).to(dtype),
        dt=(normal(1, num_rows, num_heads) - 3).to(dtype),
        register_dt=normal(_NUM_KINDS, num_heads).to(dtype),
        weights=weights,
        order=SectionOrder(bound.order, bound.is_real, rotary, kernel_index(bound.order, bound.is_real)),
        options=ScanOptions(),
    )


def relative_error(found: Tensor, true: Tensor) -> float:
    """L2 norm of the difference over that of the truth, in float64."""
    found, true = (tensor.detach().to("cpu", torch.float64) for tensor in (found, true))
    return float((found - true).norm() / true.norm().clamp_min(1e-300))


def check_against_reference(
    inputs: SectionInputs, with_gradients: bool, mix: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """Relative error of values and, if asked, of the gradient of the rows, against the definition in float32.

    The first and the last head stand for all, at full length: heads do not know of each other, and the definition
    would need more memory and time than what is measured.

    Args:
        mix: What is checked, from rows to mixed rows; our own section if absent.
    """
    count, head_dim = inputs.weights.norm_weight.shape
    chosen = sorted({0, count - 1})
    expected_inputs = inputs.heads(chosen).to(torch.float32)
    generator = torch.Generator(inputs.rows.device).manual_seed(1)
    direction = torch.randn(inputs.rows.shape[1], count, head_dim, generator=generator, device=inputs.rows.device)
    direction = direction.to(inputs.rows.dtype)
    rows = inputs.rows.detach().clone().requires_grad_(with_gradients)
    expected_rows = expected_inputs.rows.requires_grad_(with_gradients)
    with torch.set_grad_enabled(with_gradients):
        found = replace(inputs, rows=rows).mix() if mix is None else mix(rows)
        expected = replace(expected_inputs, rows=expected_rows).mix_by_reference()
    picked = found.unflatten(-1, (count, -1))[:, :, chosen]
    errors = {"forward": relative_error(picked, expected.unflatten(-1, (len(chosen), -1)))}
    if with_gradients:
        (grad,) = torch.autograd.grad(found, rows, direction[None].flatten(2))
        (expected_grad,) = torch.autograd.grad(expected, expected_rows, direction[None, :, chosen].flatten(2).float())
        errors["gradient"] = relative_error(replace(inputs, rows=grad).heads(chosen).rows, expected_grad)
    return errors


def tolerance(dtype: torch.dtype, is_gradient: bool) -> float:
    """Largest relative error that rounding explains: inputs are equal, so only the arithmetic between differs."""
    if dtype in (torch.float32, torch.float64):
        return 1e-4
    return 5e-2 if is_gradient else 1e-2


def require_correct(name: str, errors: Mapping[str, float], dtype: torch.dtype) -> None:
    """Refuse to time what is wrong.

    Raises:
        ArithmeticError: naming what is wrong and by how much.
    """
    for kind, error in errors.items():
        limit = tolerance(dtype, kind == "gradient")
        if not error <= limit:
            raise ArithmeticError(f"not timed: {kind} of {name} is off by {error:.1e}, more than {limit:.0e}")
