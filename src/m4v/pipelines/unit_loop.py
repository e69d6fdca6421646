"""The one autoregressive loop: units in order, each denoised coarse to fine, given those before it (Sec. 3.1, Eq. 4).

Text-to-video, image-to-video (unit 0 given), streaming (take units as they come) and videos longer than training
(a window of the last W units as history) are all this generator.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.core.shapes import LatentShape
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.guidance import ClassifierFreeGuidance, UnitGuidance
from m4v.flow.history import history_clips
from m4v.flow.pyramid import latent_pyramid, noise_pyramid, split_frames
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.flow.solver import euler_step
from m4v.models.denoiser.caching import in_cache_context
from m4v.models.denoiser.conditions import with_shared_conditions
from m4v.models.vae.config import LatentStatistics
from m4v.pipelines.graph_replay import GraphReplay
from m4v.pipelines.guided_velocity import (
    Denoiser,
    Predictor,
    SelfQualityVelocity,
    StepVelocity,
    classifier_free_predictor,
    first_frame_change,
)
from m4v.pipelines.noise import NoiseSource


@dataclass(frozen=True)
class GeneratedUnit:
    """One finished unit of every video in the batch.

    Attributes:
        index: Position in the video, from 0.
        latents: Clean, normalised latents of one latent frame.
    """

    index: int
    latents: Float[Tensor, "b c 1 h w"]


@dataclass(frozen=True)
class StepReport:
    """Where the loop stands after a solver step.

    Attributes:
        unit: Index of the unit being denoised.
        level: Pyramid level, 0 = coarsest.
        step: Index of the step just taken, counted over the whole video.
        timestep: What the network was told, 0 to 1000.
        latents: Result of the step, at the level's size.
    """

    unit: int
    level: int
    step: int
    timestep: float
    latents: Float[Tensor, "b c 1 h w"]


StepObserver = Callable[[StepReport], Tensor | None]
"""Sees every step; returns the latents to go on with, or None to stop the video before the current unit."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop needs besides tensors.

    Attributes:
        first_steps: Solver steps of unit 0 per pyramid level, coarsest first, each at least 1.
        later_steps: Solver steps of all other units.
        guidance: Guidance scales; 0 and 1 switch guidance off and halve the cost.
        history_window: How many earlier units a unit looks back on; None means all.
        self_quality: Guidance by the history-free velocity; off unless given a weight.
    """

    first_steps: tuple[int, ...]
    later_steps: tuple[int, ...]
    guidance: UnitGuidance = field(default_factory=UnitGuidance)
    history_window: int | None = None
    self_quality: SelfQualityGuidance = field(default_factory=SelfQualityGuidance)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: for a step count or window below 1, a negative guidance scale, or a self-guidance level that the
                pyramid has not.
        """
        for name, steps in (("num_inference_steps", self.first_steps), ("video_num_inference_steps", self.later_steps)):
            if not steps or min(steps) < 1:
                raise UserError(f"{name} is {list(steps)}; every pyramid level needs at least 1 step.")
        if self.history_window is not None and self.history_window < 1:
            raise UserError(
                f"history_window is {self.history_window}; give the number of earlier units to look back on, at least "
                "1, or leave it out to use them all."
            )
        for unit in (0, 1):
            self.guidance.for_unit(unit)
        num_levels = len(self.first_steps)
        if any(level >= num_levels for level in self.self_quality.levels or ()):
            raise UserError(
                f"The self-guidance levels are {list(self.self_quality.levels or ())}; this pyramid has levels 0 to "
                f"{num_levels - 1}."
            )

    def steps_of(self, unit: int) -> tuple[int, ...]:
        """Return the solver steps per level of one unit."""
        return self.first_steps if unit == 0 else self.later_steps

    def num_steps(self, num_units: int, given_units: int = 0) -> int:
        """Count the solver steps of a whole video whose first `given_units` units need no denoising."""
        return sum(sum(self.steps_of(unit)) for unit in range(given_units, num_units))


@dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """A batch of videos to make.

    Attributes:
        shape: Latent size at the finest level.
        num_channels: Latent channels.
        noise: Source of all randomness.
        text: Encoded prompts, one row per video; their precision is the one the network works in, while latents stay
            in float32 between evaluations.
        negative_text: What guidance steers away from; may be None where guidance is off.
        given_units: Clean, normalised latents of the first units, handed on as they are.
        latent_statistics: How latents of first and later frames are normalised; self-quality guidance asks.
    """

    shape: LatentShape
    num_channels: int
    noise: NoiseSource
    text: TextConditioning
    negative_text: TextConditioning | None = None
    given_units: Sequence[Float[Tensor, "b c 1 h w"]] = ()
    latent_statistics: LatentStatistics = field(default_factory=LatentStatistics)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.text.tokens.device

    def draw_unit_noise(self) -> Float[Tensor, "b c 1 h w"]:
        """Draw the initial noise of the next unit."""
        return self.noise.draw((self.num_channels, 1, self.shape.height, self.shape.width), self.device)


def generate_units(
    denoiser: Denoiser,
    schedule: PyramidSchedule,
    request: UnitRequest,
    settings: LoopSettings,
    on_step: StepObserver | None = None,
    graphs: GraphReplay | None = None,
) -> Iterator[GeneratedUnit]:
    """Generate a batch of videos unit by unit.

    Noise is drawn per unit, in order (the unit's initial noise, then that of its jumps), and by nothing else. So a
    unit's noise depends neither on step counts nor on how many units follow, and a longer video with the same seed
    starts with the shorter one. (Self-quality guidance with `renoise` also draws at every step it acts on; units after
    it then do depend on step counts.)

    Args:
        denoiser: The network.
        schedule: Tables of the pyramid.
        request: What to make.
        settings: Step counts, guidance, window.
        on_step: Called after every solver step.
        graphs: Replays evaluations of short sequences; None: all run as usual.

    Yields:
        Every unit, as soon as it is clean; given units included.

    Source: Sec. 3.1, Eq. 4; Pyramid-Flow `generate` and `generate_i2v`.
    """
    step_counter = itertools.count()
    earlier: list[list[Tensor]] = []
    for unit in range(request.shape.num_units):
        latents: Tensor | None
        if unit < len(request.given_units):
            latents = request.given_units[unit].to(device=request.device, dtype=torch.float32)
        else:
            latents = _denoise_unit(denoiser, schedule, request, settings, unit, earlier, step_counter, on_step, graphs)
        if latents is None:
            return
        earlier.extend(split_frames(latent_pyramid(latents, schedule.num_levels)))
        if settings.history_window is not None:
            earlier = earlier[-settings.history_window :]
        yield GeneratedUnit(unit, latents)


def _denoise_unit(
    denoiser: Denoiser,
    schedule: PyramidSchedule,
    request: UnitRequest,
    settings: LoopSettings,
    unit: int,
    earlier: Sequence[Sequence[Tensor]],
    step_counter: Iterator[int],
    on_step: StepObserver | None,
    graphs: GraphReplay | None,
) -> Tensor | None:
    """Take one unit from noise through all levels to clean latents; None if the observer stopped the loop."""
    latents = noise_pyramid(request.draw_unit_noise(), schedule.num_levels)[0]
    for level, num_steps in enumerate(settings.steps_of(unit)):
        if level > 0:
            latents = request.noise.jump(schedule, latents, level)
        history = history_clips(earlier, level, halvings=schedule.config.history_halvings)
        # What belongs to this unit and level alone, and goes with it: results of caches, conditions, graphs.
        evaluate = with_shared_conditions(denoiser, in_cache_context(denoiser, f"unit {unit}, level {level}"))
        velocity = _step_velocity(evaluate, schedule, request, settings, history, unit, level, graphs)
        steps = schedule.inference_steps(level, num_steps)
        sigma_pairs = itertools.pairwise(steps.level_sigmas.tolist())
        for timestep, sigmas in zip(steps.timesteps.tolist(), sigma_pairs, strict=True):
            latents = euler_step(latents, velocity(latents, timestep, sigmas[0]), *sigmas)
            step = next(step_counter)
            if on_step is not None:
                observed = on_step(StepReport(unit, level, step, timestep, latents))
                if observed is None:
                    return None
                latents = observed
        if graphs is not None:
            graphs.end_level()
    return latents


def _step_velocity(
    denoiser: Denoiser,
    schedule: PyramidSchedule,
    request: UnitRequest,
    settings: LoopSettings,
    history: Sequence[LevelClip],
    unit: int,
    level: int,
    graphs: GraphReplay | None,
) -> StepVelocity:
    """Fix all that the steps of one unit share at one level."""

    def predictor(clips: Sequence[LevelClip], guidance: ClassifierFreeGuidance) -> Predictor:
        num_steps = settings.steps_of(unit)[level]
        return classifier_free_predictor(
            denoiser, request.text, request.negative_text, clips, level, guidance, graphs, num_steps
        )

    guidance = settings.guidance.for_unit(unit)
    with_history = predictor(history, guidance)
    if not settings.self_quality.is_active(unit, level, schedule.num_levels):
        return lambda latents, timestep, _: with_history(latents, timestep)
    return SelfQualityVelocity(
        guidance=settings.self_quality,
        schedule=schedule,
        level=level,
        change=first_frame_change(request.latent_statistics),
        with_history=with_history,
        without_history=predictor((), guidance),
        prompt_only=predictor(history, ClassifierFreeGuidance(1)),
        draw_noise=lambda latents: request.noise.draw(latents.shape[1:], latents.device),
    )
