"""Networks of a benchmark: made on the device with random weights, and the arguments of their calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m4v.analysis.bench.clock import describe_failure
from m4v.analysis.part_memory import cast_weights
from m4v.core.config_io import to_plain
from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.conditions import Conditions, with_shared_conditions
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import WanConfig
from m4v.pipelines.compiling import compile_denoiser


@dataclass(frozen=True)
class PyramidCall:
    """Arguments of one call of the pyramid denoiser."""

    clips: list[LevelClip]
    timesteps: Tensor
    text: TextConditioning

    @property
    def arguments(self) -> tuple[list[LevelClip], Tensor, TextConditioning]:
        """In order."""
        return self.clips, self.timesteps, self.text

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "PyramidCall":
        """The same elsewhere, or in another precision."""
        clips = [LevelClip(clip.latents.to(device=device, dtype=dtype), clip.level) for clip in self.clips]
        return PyramidCall(clips, self.timesteps.to(device=device), self.text.to(device, dtype))


def pyramid_call(
    config: DenoiserConfig, layout: SequenceLayout, *, batch_size: int, dtype: torch.dtype, device: torch.device
) -> PyramidCall:
    """Random arguments with this layout; every text token is real, frames of one level and size share a clip."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, device=device).to(dtype)

    patch, length = config.patch_size, layout.num_text_tokens
    clips: list[LevelClip] = []
    history = list(layout.frames[: layout.num_history_frames])
    while history:
        first = history[0]
        count = next((i for i, frame in enumerate(history) if frame != first), len(history))
        history = history[count:]
        clips.append(
            LevelClip(normal(config.in_channels, count, patch * first.height, patch * first.width), first.level)
        )
    last = layout.frames[-1]
    noisy = normal(config.in_channels, layout.num_noisy_frames, patch * last.height, patch * last.width)
    clips.append(LevelClip(noisy, last.level))
    text = TextConditioning(
        normal(length, config.text_dim),
        torch.ones(batch_size, length, dtype=torch.bool, device=device),
        normal(config.pooled_text_dim),
    )
    return PyramidCall(clips, torch.full((batch_size,), 500.0, device=device), text)


def build_network(config: DenoiserConfig | WanConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """Make a network on the device, without weights in main memory first, for inference."""
    kind = M4VTransformer3DModel if isinstance(config, DenoiserConfig) else WanM4VTransformer3DModel
    with torch.device(device):
        network = kind(**to_plain(config))
    cast_weights(network, dtype)
    randomise(network)
    return network.eval()


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Give the matrices that begin at zero random values, so that every block matters to the result."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.detach().any():
            parameter.data.normal_(std=0.02)


def compiled(network: Any, *, for_training: bool = False) -> Any:
    """Compile each kind of block once for all lengths; for prediction as a pipeline does, with projections merged."""
    # Networks of several plans share the code of their blocks, and each plan is a compilation of its own.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    if for_training:
        network.compile_repeated_blocks(dynamic=True)
    else:
        compile_denoiser(network)
    return network


def compiled_or_eager(network: Any, call: Callable[[], Any]) -> str | None:
    """Compile a network and try it; where that fails, leave it as it was.

    Args:
        call: Evaluates the network.

    Returns:
        Why it stays uncompiled; None if it is compiled.
    """
    try:
        compiled(network)
        call()
    except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and the measurement can go on without
        for module in network.modules():
            module._compiled_call_impl = None
        if hasattr(network, "unfuse_projections"):
            network.unfuse_projections()
        return describe_failure(error)
    return None


def steady_call(network: Any, call: PyramidCall) -> Callable[[], Tensor]:
    """One evaluation as every step after a level's first: what depends on prompts and sizes alone is recalled."""
    evaluate = with_shared_conditions(network, network)

    @torch.no_grad()
    def run() -> Tensor:
        velocity: Tensor = evaluate(*call.arguments)
        return velocity

    return run


def steady_clip_call(network: Any, latents: Tensor, timestep: Tensor, text: Tensor) -> Callable[[], Tensor]:
    """The same of a network that takes whole clips (Wan)."""
    conditions = Conditions()

    @torch.no_grad()
    def run() -> Tensor:
        with network.reusing_conditions(conditions):
            velocity: Tensor = network(latents, timestep, text, return_dict=False)[0]
        return velocity

    return run
