"""What Wan models recommend for generation (torch-free; Wan2.1's scripts and README, diffusers' examples)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from m4v.core.errors import UserError
from m4v.pipelines.config import GenerationDefaults

_SIZES_480 = ((480, 832), (832, 480))
_SIZES_720 = ((720, 1280), (1280, 720))
_WIDTH_14B = 5120


@dataclass(frozen=True, kw_only=True)
class WanGenerationDefaults(GenerationDefaults):
    """How a Wan model wants to be used; stored in `model_index.json`.

    The whole clip is one unit of one level: `first_steps` has one entry, and what concerns later units is not used.

    Attributes:
        scheduler: Sampler: `unipc` (second order) or `euler`.
        flow_shifts: Sigma shift by the shorter side in pixels; the entry with the nearest side counts.

    Raises:
        UserError: if a value is out of range.

    Source: Wan2.1 and diffusers' examples.
    """

    height: int = 480
    width: int = 832
    num_frames: int = 81
    fps: float = 16.0
    first_steps: tuple[int, ...] = (50,)
    later_steps: tuple[int, ...] = (50,)
    first_guidance: float = 5.0
    later_guidance: float = 5.0
    max_text_length: int = 512
    trained_sizes: tuple[tuple[int, int], ...] = _SIZES_480
    scheduler: Literal["unipc", "euler"] = "unipc"
    flow_shifts: tuple[tuple[int, float], ...] = ((480, 3.0), (720, 5.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.first_steps) != 1:
            raise UserError(f"defaults.first_steps is {self.first_steps}; a Wan model has one level: give one number.")
        if not self.flow_shifts or not all(side > 0 and shift > 0 for side, shift in self.flow_shifts):
            raise UserError(
                f"defaults.flow_shifts is {self.flow_shifts}; expected pairs of a side and a shift, both above 0."
            )

    def flow_shift(self, height: int, width: int) -> float:
        """Choose the shift for a size in pixels."""
        _, shift = min(self.flow_shifts, key=lambda entry: abs(entry[0] - min(height, width)))
        return shift


def published_defaults(transformer: Mapping[str, Any]) -> WanGenerationDefaults:
    """Give what Wan2.1 recommends for a network of this size.

    Args:
        transformer: Configuration of the denoiser: `num_attention_heads` and `attention_head_dim`.
    """
    if transformer["num_attention_heads"] * transformer["attention_head_dim"] < _WIDTH_14B:
        return WanGenerationDefaults(first_guidance=6.0, later_guidance=6.0, flow_shifts=((480, 8.0),))
    return WanGenerationDefaults(trained_sizes=(*_SIZES_480, *_SIZES_720))
