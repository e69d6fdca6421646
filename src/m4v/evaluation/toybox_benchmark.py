"""Scores a text-to-video pipeline on the toybox world: colour, object and motion of every prompt's clip, with anchors.

The judge sees pixels only. Four anchors say what a number means: renders of the prompts' own scenes (ceiling), the same
after the autoencoder's round trip (codec ceiling), renders beside wrong captions (floor by accident), and noise.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from m4v.core.errors import UserError
from m4v.evaluation.generation import Advance, GenerationOptions, TextToVideo, generate_clips
from m4v.evaluation.scores import (
    AXES,
    JudgedClip,
    Scores,
    confusion,
    expected_of,
    found_in,
    score,
    score_wrong_captions,
)
from m4v.evaluation.vae_round_trip import vae_round_trip
from m4v.toybox.oracles.judge import judge
from m4v.toybox.renderer import RENDERER_VERSION, Render, render
from m4v.toybox.splits import EvaluationPrompt, evaluation_prompts

Group = Literal["seen", "held_out"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
ANCHORS: Final = ("ceiling", "codec", "wrong_caption", "noise")

Clips = Sequence[UInt8[np.ndarray, "t h w 3"]]


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """Outcome for one prompt list.

    Attributes:
        anchors: Scores by anchor name; "codec" only where the pipeline has a `vae`.
        psnr: dB of the autoencoder's round trip over all pixels of the prompts' renders; None without a `vae`.
        object_psnr: The same over object pixels.
    """

    prompts: tuple[EvaluationPrompt, ...]
    clips: tuple[UInt8[np.ndarray, "t h w 3"], ...]
    judged: tuple[JudgedClip, ...]
    scores: Scores
    anchors: Mapping[str, Scores]
    psnr: float | None
    object_psnr: float | None


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """Everything the benchmark measured."""

    tier: str
    seed: int
    groups: Mapping[Group, GroupResult]
    seconds_per_clip: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `seen` and `held_out` hold `colour`, `object`, `motion` and `intervals`."""
        return {
            "tier": self.tier,
            "seed": self.seed,
            "renderer_version": RENDERER_VERSION,
            **{name: group.scores.to_json() for name, group in self.groups.items()},
            "anchors": {
                name: {anchor: scores.to_json() for anchor, scores in group.anchors.items()}
                for name, group in self.groups.items()
            },
            "psnr": {
                name: {"all": _rounded(group.psnr), "object": _rounded(group.object_psnr)}
                for name, group in self.groups.items()
            },
            "confusions": {
                name: {axis: confusion(group.judged, axis).to_json() for axis in AXES}
                for name, group in self.groups.items()
            },
            "seconds_per_clip": round(self.seconds_per_clip, 3),
        }


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 2)


def benchmark_prompts(tier: str, limit: int | None = None) -> dict[Group, tuple[EvaluationPrompt, ...]]:
    """Return the fixed prompt lists, or a fixed choice of `limit` prompts of each.

    Raises:
        UserError: If there is no such tier or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; use 1 or more prompts")
    lists = evaluation_prompts(tier)
    return {"seen": spread(lists.seen, limit), "held_out": spread(lists.held_out, limit)}


def spread(prompts: Sequence[EvaluationPrompt], limit: int | None) -> tuple[EvaluationPrompt, ...]:
    """Return `limit` entries in a fixed mixed order (a smaller limit gives a part of a larger one), or all."""
    if limit is None or limit >= len(prompts):
        return tuple(prompts)
    order = np.random.Generator(np.random.Philox(key=len(prompts))).permutation(len(prompts))
    shuffled = [prompts[number] for number in order]
    # Kind after kind in turn, so that a few prompts show many kinds.
    turns: Counter[str] = Counter()
    ranked = []
    for place, prompt in enumerate(shuffled):
        kind = prompt.scene.objects[0].kind
        ranked.append((turns[kind], place))
        turns[kind] += 1
    return tuple(shuffled[place] for _, place in sorted(ranked)[:limit])


def judge_clips(prompts: Sequence[EvaluationPrompt], clips: Clips, tier: str) -> tuple[JudgedClip, ...]:
    """Judge every clip and put what its prompt says beside it."""
    return tuple(
        JudgedClip(expected=expected_of(prompt.scene), found=found_in(judge(clip, tier)))
        for prompt, clip in zip(prompts, clips, strict=True)
    )


def run_benchmark(
    pipeline: TextToVideo,
    tier: str = "xs",
    *,
    seed: int = 0,
    limit: int | None = None,
    options: GenerationOptions = GenerationOptions(),  # noqa: B008 - frozen
    batch_size: int = 16,
    on_progress: Advance | None = None,
) -> BenchmarkReport:
    """Generate, judge and anchor both prompt lists.

    Args:
        seed: Of the noise; one clip per prompt.
        limit: Prompts of each list, a fixed mixed choice; None: all.

    Raises:
        UserError: For an unknown tier or settings the pipeline cannot use.
    """
    lists = benchmark_prompts(tier, limit)
    texts = [prompt.text for name in GROUPS for prompt in lists[name]]
    made = generate_clips(pipeline, texts, seed, options, batch_size, on_progress)
    vae = getattr(pipeline, "vae", None)
    groups: dict[Group, GroupResult] = {}
    first = 0
    for name in GROUPS:
        prompts = lists[name]
        clips = made.clips[first : first + len(prompts)]
        first += len(prompts)
        groups[name] = _group_result(prompts, clips, tier, seed, vae)
    return BenchmarkReport(tier=tier, seed=seed, groups=groups, seconds_per_clip=made.seconds_per_clip)


def _group_result(
    prompts: tuple[EvaluationPrompt, ...],
    clips: tuple[UInt8[np.ndarray, "t h w 3"], ...],
    tier: str,
    seed: int,
    vae: Any,
) -> GroupResult:
    judged = judge_clips(prompts, clips, tier)
    renders = [render(prompt.scene) for prompt in prompts]
    truths = judge_clips(prompts, [item.frames for item in renders], tier)
    anchors = {
        "ceiling": score(truths),
        "wrong_caption": score_wrong_captions(truths),
        "noise": score(judge_clips(prompts, _noise(renders, seed), tier)),
    }
    psnr = object_psnr = None
    if vae is not None:
        trip = vae_round_trip(vae, [item.frames for item in renders], [item.object_ids > 0 for item in renders])
        anchors["codec"] = score(judge_clips(prompts, trip.clips, tier))
        psnr, object_psnr = trip.psnr, trip.object_psnr
    return GroupResult(
        prompts=prompts,
        clips=clips,
        judged=judged,
        scores=score(judged),
        anchors={name: anchors[name] for name in ANCHORS if name in anchors},
        psnr=psnr,
        object_psnr=object_psnr,
    )


def _noise(renders: Sequence[Render], seed: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
    rng = np.random.Generator(np.random.Philox(key=seed))
    return [rng.integers(0, 256, item.frames.shape, dtype=np.uint8) for item in renders]
