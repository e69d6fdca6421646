"""Both bases, small: how to build a network with every kind of block, and one call of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from tests.models.denoiser import wan_builders
from tests.models.denoiser.builders import history_and_noisy, prompts, random_model, times


@dataclass(frozen=True)
class Base:
    """One base.

    Attributes:
        name: For test ids.
        model_class: Its denoiser.
        build: Makes one with random parameters in single precision.
        call: Evaluates one in a precision, on inputs that depend on a seed.
        step_projection: What computes the step sizes.
        blocks: Its blocks, in order.
        mixer_of: The token mixer of a block that is not dual-stream.
    """

    name: str
    model_class: type[Any]
    build: Callable[..., Any]
    call: Callable[[Any, torch.dtype, int], Tensor]
    step_projection: str
    blocks: Callable[[Any], list[nn.Module]]
    mixer_of: Callable[[Any], nn.Module]

    def velocity(self, model: nn.Module, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """One call without gradients."""
        with torch.no_grad():
            return self.call(model, dtype, seed)


def pyramid_model(**changes: Any) -> M4VTransformer3DModel:
    """All block kinds: dual, scan with temporal branch, attention, both side by side."""
    plan = {"num_single_layers": 3, "mixer_plan": ["mm_dim", "attention", "parallel"]}
    return random_model(dtype=torch.float32, **(plan | changes))


def _call_pyramid(model: M4VTransformer3DModel, dtype: torch.dtype, seed: int) -> Tensor:
    return model(history_and_noisy(dtype=dtype, seed=seed), times(dtype=torch.float32), prompts(dtype=dtype))


def wan_model(**changes: Any) -> WanM4VTransformer3DModel:
    """Scan, attention and scan."""
    plan = {"num_layers": 3, "mixer_plan": ["mm_dim", "attention", "mm_dim"]}
    return wan_builders.debug_model(**(plan | changes))


def _call_wan(model: WanM4VTransformer3DModel, dtype: torch.dtype, seed: int) -> Tensor:
    return model(**wan_builders.in_dtype(wan_builders.inputs(seed=seed), dtype)).sample


def relative_error(changed: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    return ((changed.float() - reference.float()).square().mean() / reference.float().square().mean()).sqrt().item()


PYRAMID = Base(
    name="pyramid",
    model_class=M4VTransformer3DModel,
    build=pyramid_model,
    call=_call_pyramid,
    step_projection="dt_proj",
    blocks=lambda model: [*model.transformer_blocks, *model.single_transformer_blocks],
    mixer_of=lambda block: block.mixer,
)
WAN = Base(
    name="wan",
    model_class=WanM4VTransformer3DModel,
    build=wan_model,
    call=_call_wan,
    step_projection="to_dt",
    blocks=lambda model: list(model.blocks),
    mixer_of=lambda block: block.attn1,
)
