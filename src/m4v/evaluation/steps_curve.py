"""Scores against solver steps and seconds, to choose the step counts that a model folder recommends."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from m4v.core.generators import generator_for
from m4v.evaluation.generation import Advance, GenerationOptions, Steps, TextToVideo, generate_clips
from m4v.evaluation.scores import Scores, score
from m4v.evaluation.toybox_benchmark import benchmark_prompts, judge_clips


@dataclass(frozen=True, kw_only=True)
class StepsPoint:
    """One setting: steps of the first and of later units, scores on seen prompts, and time.

    Attributes:
        seconds_per_clip: Average in batches.
        seconds_alone: One clip by itself, as a person waits for it.
    """

    first_steps: Steps
    later_steps: Steps
    scores: Scores
    seconds_per_clip: float
    seconds_alone: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "first_steps": self.first_steps,
            "later_steps": self.later_steps,
            **self.scores.to_json(),
            "seconds_per_clip": round(self.seconds_per_clip, 3),
            "seconds_alone": round(self.seconds_alone, 3),
        }


def steps_curve(
    pipeline: TextToVideo,
    steps: Sequence[tuple[Steps, Steps]],
    tier: str = "xs",
    *,
    seed: int = 0,
    limit: int | None = None,
    options: GenerationOptions = GenerationOptions(),  # noqa: B008 - frozen
    batch_size: int = 16,
    on_progress: Advance | None = None,
) -> tuple[StepsPoint, ...]:
    """Score every pair of step counts (first unit, later units) on the same seen prompts and seeds.

    Args:
        options: Guidance; its steps are replaced.

    Raises:
        UserError: For an unknown tier or settings the pipeline cannot use.
    """
    prompts = benchmark_prompts(tier, limit)["seen"]
    texts = [prompt.text for prompt in prompts]
    points = []
    for number, (first, later) in enumerate(steps):
        chosen = GenerationOptions(
            first_steps=first,
            later_steps=later,
            first_guidance=options.first_guidance,
            later_guidance=options.later_guidance,
        )
        made = generate_clips(pipeline, texts, seed, chosen, batch_size, _shifted(on_progress, number, len(steps)))
        start = perf_counter()
        pipeline(texts[:1], generator=[generator_for(seed, "alone")], output_type="np", **chosen.as_arguments())
        points.append(
            StepsPoint(
                first_steps=first,
                later_steps=later,
                scores=score(judge_clips(prompts, made.clips, tier)),
                seconds_per_clip=made.seconds_per_clip,
                seconds_alone=perf_counter() - start,
            )
        )
    return tuple(points)


def _shifted(on_progress: Advance | None, number: int, rounds: int) -> Advance | None:
    """Report the progress of round `number` as part of all rounds."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(number * total + done, rounds * total)
