"""What a caller asks of the pyramid pipeline, and what it comes to where the model's defaults fill the gaps."""

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.flow.guidance import LinearDecay, UnitGuidance
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.pipelines.config import GenerationDefaults, steps_per_level
from m4v.pipelines.unit_loop import LoopSettings

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingArguments:
    """The numbers of a call; None stands for the model's own. `M4VPipeline.stream` says what each one means."""

    num_inference_steps: int | Sequence[int] | None = None
    video_num_inference_steps: int | Sequence[int] | None = None
    guidance_scale: float | None = None
    video_guidance_scale: float | None = None
    guidance_decay: float | LinearDecay | None = None
    self_guidance_scale: float | SelfQualityGuidance | None = None
    history_window: int | None = None

    def __post_init__(self) -> None:
        """Check kinds.

        Raises:
            UserError: for a scale that is no number, or a count that is not whole.
        """
        for name in ("guidance_scale", "video_guidance_scale"):
            scale: Any = getattr(self, name)
            if scale is not None and not isinstance(scale, int | float | np.number):
                raise UserError(f"{name} is {scale!r}; expected a number.")
        for name in ("num_inference_steps", "video_num_inference_steps", "history_window"):
            given: Any = getattr(self, name)
            counts = given if isinstance(given, list | tuple) else () if given is None else (given,)
            if not all(isinstance(count, int | np.integer) for count in counts):
                raise UserError(f"{name} is {given!r}; expected a whole number, or one for each pyramid level.")

    def loop_settings(self, defaults: GenerationDefaults, num_levels: int, has_image: bool) -> LoopSettings:
        """Settle every number.

        Args:
            defaults: The model's own numbers.
            num_levels: Pyramid levels.
            has_image: Whether the first frame is given, which has defaults of its own.

        Raises:
            UserError: for a value out of range, or two that exclude each other.
        """
        image_steps = defaults.image_steps if has_image else None
        first = _first_given(self.num_inference_steps, defaults.first_steps)
        later = _first_given(
            self.video_num_inference_steps, self.num_inference_steps, image_steps, defaults.later_steps
        )
        return LoopSettings(
            first_steps=steps_per_level(first, num_levels),
            later_steps=steps_per_level(later, num_levels),
            guidance=self._guidance(defaults, has_image),
            history_window=self.history_window,
            self_quality=self._self_quality(defaults),
        )

    def _guidance(self, defaults: GenerationDefaults, has_image: bool) -> UnitGuidance:
        image_guidance = defaults.image_guidance if has_image else None
        return UnitGuidance(
            first=_first_given(self.guidance_scale, defaults.first_guidance),
            later=_first_given(self.video_guidance_scale, self.guidance_scale, image_guidance, defaults.later_guidance),
            decay=self._decay(defaults),
        )

    def _decay(self, defaults: GenerationDefaults) -> LinearDecay | None:
        """The model's own decay gives way to a scale for later units; asking for both is a contradiction."""
        slope = self.guidance_decay
        if slope is None and self.video_guidance_scale is None:
            slope = defaults.guidance_decay_slope
        if not slope:
            return None
        if self.video_guidance_scale is not None:
            raise UserError(
                f"video_guidance_scale is {self.video_guidance_scale}, but with guidance_decay the guidance of later "
                "units follows from guidance_scale; give one of the two."
            )
        if isinstance(slope, LinearDecay):
            return slope
        return LinearDecay(slope=slope, minimum=defaults.guidance_decay_minimum)

    def _self_quality(self, defaults: GenerationDefaults) -> SelfQualityGuidance:
        wanted = _first_given(self.self_guidance_scale, defaults.self_guidance)
        return wanted if isinstance(wanted, SelfQualityGuidance) else SelfQualityGuidance(weight=float(wanted))


def generators_for(
    generator: torch.Generator | Sequence[torch.Generator] | None, seed: int | None, num_prompts: int, copies: int
) -> list[torch.Generator]:
    """Give one generator per video, prompt after prompt, or a single one for all that the caller gave.

    Raises:
        UserError: for both a seed and a generator, a seed out of range, or another number of generators than videos.
    """
    if generator is None:
        start = secrets.randbelow(2**31) if seed is None else seed
        if not isinstance(start, int | np.integer) or not 0 <= start <= _MAX_SEED - copies:
            raise UserError(f"seed is {start}; expected a whole number from 0 to {_MAX_SEED - copies}.")
        return [generator_for(start + copy) for _, copy in itertools.product(range(num_prompts), range(copies))]
    if seed is not None:
        raise UserError("Both generator and seed are given; give one of them.")
    if isinstance(generator, torch.Generator):
        return [generator]
    if len(generator) != num_prompts * copies:
        raise UserError(f"There are {len(generator)} generators for {num_prompts * copies} videos; give one for each.")
    return list(generator)


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)
