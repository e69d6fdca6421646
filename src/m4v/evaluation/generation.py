"""Asks a pipeline for the clips of a prompt list, in batches, one seed per prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8

from m4v.core.errors import UserError
from m4v.core.generators import generator_for

Steps = int | tuple[int, ...]
Advance = Callable[[int, int], None]
"""Reports how many clips are done by now, and how many there are."""


class TextToVideo(Protocol):
    """What the benchmark needs of a pipeline; `M4VPipeline` is one. A `vae` attribute adds the codec's own loss."""

    def __call__(self, prompt: list[str], *, generator: list[torch.Generator], output_type: str, **options: Any) -> Any:
        """Return an object whose `frames` are uint8 `b t h w 3`."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Departures from the model's own defaults; None keeps a default.

    Attributes:
        first_steps: Solver steps of the first unit: one number, or one per level, coarsest first.
        later_steps: Solver steps of later units.
        first_guidance: Guidance scale of the first unit.
        later_guidance: Guidance scale of later units.
    """

    first_steps: Steps | None = None
    later_steps: Steps | None = None
    first_guidance: float | None = None
    later_guidance: float | None = None

    def as_arguments(self) -> dict[str, Any]:
        """Return the pipeline's arguments, those left at their default omitted."""
        named = {
            "num_inference_steps": self.first_steps,
            "video_num_inference_steps": self.later_steps,
            "guidance_scale": self.first_guidance,
            "video_guidance_scale": self.later_guidance,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class GeneratedClips:
    """Clips in the order of their prompts, and the seconds that making one took on average."""

    clips: tuple[UInt8[np.ndarray, "t h w 3"], ...]
    seconds_per_clip: float


def generate_clips(
    pipeline: TextToVideo,
    prompts: Sequence[str],
    seed: int,
    options: GenerationOptions,
    batch_size: int,
    on_progress: Advance | None = None,
) -> GeneratedClips:
    """Make one clip per prompt; clip number i depends on (seed, i) and its prompt only, not on the batch size.

    Raises:
        UserError: If the batch size is below 1 or the device runs out of memory.
    """
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}; use 1 or more")
    clips: list[np.ndarray] = []
    start = perf_counter()
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        generators = [generator_for(seed, "evaluation", first + number) for number in range(len(batch))]
        try:
            made = pipeline(batch, generator=generators, output_type="np", **options.as_arguments())
        except torch.OutOfMemoryError as error:
            raise UserError(f"out of memory with {len(batch)} clips at a time; use a smaller batch size") from error
        clips += list(made.frames)
        if on_progress is not None:
            on_progress(len(clips), len(prompts))
    return GeneratedClips(clips=tuple(clips), seconds_per_clip=(perf_counter() - start) / max(len(prompts), 1))
