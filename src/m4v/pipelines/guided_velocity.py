"""The velocity of one solver step: network passes joined by classifier-free and self-quality guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.guidance import ClassifierFreeGuidance
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.self_quality import PathPosition, SelfQualityGuidance, StatisticsChange
from m4v.models.vae.config import LatentStatistics, Statistic
from m4v.pipelines.graph_replay import Evaluation, GraphReplay

Predictor = Callable[[Tensor, float], Tensor]
"""Velocity of noisy latents at a timestep (0 to 1000); the level, its history and the prompts are fixed."""

StepVelocity = Callable[[Tensor, float, float], Tensor]
"""The same, told the level's local clock as well (1 to 0): latents, timestep, clock."""


class Denoiser(Protocol):
    """Predicts the velocity of the last clip, given all clips and the prompt."""

    def __call__(
        self, clips: Sequence[LevelClip], timesteps: Float[Tensor, " b"], text: TextConditioning
    ) -> Float[Tensor, "b c t h w"]:
        """Evaluate the network; timesteps run from 0 to 1000."""


def classifier_free_predictor(
    denoiser: Denoiser,
    text: TextConditioning,
    negative_text: TextConditioning | None,
    history: Sequence[LevelClip],
    level: int,
    guidance: ClassifierFreeGuidance,
    graphs: GraphReplay | None = None,
    num_evaluations: int = 1,
) -> Predictor:
    """Fix all that a level's steps share; with guidance, both prompts travel in one batch, negative first.

    Args:
        denoiser: The network, called once per prediction.
        text: Prompts; their precision is the one the network works in.
        negative_text: Needed where guidance is on.
        history: Clips before the noisy one, oldest first; may be empty.
        level: Level of the noisy latents, 0 = coarsest.
        guidance: Classifier-free guidance; 0 and 1 evaluate the prompt alone.
        graphs: Replays evaluations of short sequences; None: all run as usual.
        num_evaluations: How many predictions will be asked for.
    """
    is_guided = guidance.needs_negative
    prompts = text
    if is_guided:
        assert negative_text is not None, "guidance needs a negative prompt"
        prompts = negative_text.concatenate(text)

    def widen(clip: LevelClip) -> LevelClip:
        latents = clip.latents.to(prompts.tokens.dtype)
        return LevelClip(torch.cat([latents, latents]) if is_guided else latents, clip.level)

    # Once for all steps, as the prompts above.
    past = [widen(clip) for clip in history]
    batch = len(prompts.tokens)

    def evaluate(latents: Tensor, timesteps: Tensor) -> Tensor:
        velocity = denoiser([*past, widen(LevelClip(latents, level))], timesteps, prompts).float()
        return guidance.combine(*velocity.chunk(2)) if is_guided else velocity

    evaluation: Evaluation = evaluate
    if graphs is not None:
        history_cells = sum(clip.latents[:, 0].numel() for clip in past)
        evaluation = graphs.replaying(evaluate, history_cells=history_cells, num_evaluations=num_evaluations)

    def predict(latents: Float[Tensor, "b c 1 h w"], timestep: float) -> Float[Tensor, "b c 1 h w"]:
        # Filled on the device: nothing of a step waits for it.
        return evaluation(latents, torch.full((batch,), timestep, device=latents.device))

    return predict


@dataclass(frozen=True, kw_only=True)
class SelfQualityVelocity:
    """Eq. 8 to 10 at one level of one unit, as a `StepVelocity`.

    Passes of the network per step, where classifier-free guidance makes two of each: one with history and one
    without. The first is left out at weight 1 if nothing else needs it. `renoise` adds a single one.

    Attributes:
        guidance: Weight and reading.
        schedule: Tables of the pyramid.
        level: Level of the noisy latents, 0 = coarsest.
        change: From the statistics of later frames to those of first frames.
        with_history: v_l of Eq. 8.
        without_history: v_h of Eq. 9.
        prompt_only: With history, without classifier-free guidance; predicts the clean latents of `renoise`.
        draw_noise: Draws fresh noise in the shape of the latents it is given; called by `renoise` only.

    Source: Appendix E.3, Eq. 8 to 10.
    """

    guidance: SelfQualityGuidance
    schedule: PyramidSchedule
    level: int
    change: StatisticsChange
    with_history: Predictor
    without_history: Predictor
    prompt_only: Predictor
    draw_noise: Callable[[Tensor], Tensor]

    def __call__(
        self, latents: Float[Tensor, "b c 1 h w"], timestep: float, level_sigma: float
    ) -> Float[Tensor, "b c 1 h w"]:
        """Evaluate the guided velocity."""
        position = PathPosition.of(self.schedule, self.level, level_sigma)
        if not self.guidance.renoise:
            return self._mix(position, latents, timestep, noise=None)
        old = position.estimate_noise(latents, self.prompt_only(latents, timestep))
        new = self.draw_noise(latents)
        velocity = self._mix(position, position.exchange_noise(latents, old, new), timestep, noise=new)
        return position.exchange_velocity_noise(velocity, old=new, new=old)

    @property
    def _changes_statistics(self) -> bool:
        return self.guidance.match_statistics and not self.change.is_identity

    def _mix(self, position: PathPosition, latents: Tensor, timestep: float, noise: Tensor | None) -> Tensor:
        """Mix both velocities at the same latents, whose noise is estimated if it is needed and not known."""
        must_estimate = noise is None and self._changes_statistics
        if self.guidance.weight == 1 and not must_estimate:
            return self._without_history(position, latents, timestep, noise)
        low = self.with_history(latents, timestep)
        if must_estimate:
            noise = position.estimate_noise(latents, low)
        return self.guidance.combine(low, self._without_history(position, latents, timestep, noise))

    def _without_history(
        self, position: PathPosition, latents: Tensor, timestep: float, noise: Tensor | None
    ) -> Tensor:
        """Evaluate without history, in the statistics of first frames where they differ."""
        if noise is None or not self._changes_statistics:
            return self.without_history(latents, timestep)
        velocity = self.without_history(position.to_first_frame(latents, noise, self.change), timestep)
        return position.from_first_frame(velocity, noise, self.change)


def first_frame_change(statistics: LatentStatistics) -> StatisticsChange:
    """Map latents normalised as later frames to latents normalised as first frames.

    Both are affine in the autoencoder's latents, so one is affine in the other: the factor is
    `image_scale / video_scale` and the offset `(video_shift - image_shift) * image_scale`.
    """

    def each(combine: Callable[..., float], *values: Statistic) -> Statistic:
        length = max((len(value) for value in values if isinstance(value, tuple)), default=None)
        if length is None:
            return combine(*values)
        rows = zip(*(value if isinstance(value, tuple) else (value,) * length for value in values), strict=True)
        return tuple(combine(*row) for row in rows)

    return StatisticsChange(
        factor=each(lambda image, video: image / video, statistics.image_scale, statistics.video_scale),
        offset=each(
            lambda video, image, scale: (video - image) * scale,
            statistics.video_shift,
            statistics.image_shift,
            statistics.image_scale,
        ),
    )
