"""What reward learning is checked against: judges that nothing was trained on (toybox world, section 4)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from m4v.toybox.captions import parse
from m4v.toybox.oracles.judge import judge
from m4v.toybox.splits import evaluation_prompts

_JUDGED_MOTIONS = {
    **{
        name: name
        for name in ("still", "left", "right", "toward", "away", "jumps", "rises", "falls", "grows", "shrinks")
    },
    "bounces": "jumps",
}
"""What the judge says of the motions that it tells apart; prompts with others do not count for motion."""


def toybox_prompts(tier: str, count: int) -> tuple[str, ...]:
    """Choose evaluation prompts, half of combinations that training shows and half of held-out ones, spread over both.

    Raises:
        UserError: if there is no such tier.
    """
    lists = evaluation_prompts(tier)
    chosen = []
    for prompts, wanted in ((lists.seen, count - count // 2), (lists.held_out, count // 2)):
        picks = np.linspace(0, len(prompts) - 1, min(wanted, len(prompts))).round().astype(int)
        chosen += [prompts[pick].text for pick in picks]
    return tuple(chosen)


def toybox_agreement(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]], prompts: Sequence[str], tier: str
) -> dict[str, float]:
    """Share of stated colours, objects and motions that the rule-based judge sees, from 0 to 1.

    Args:
        clips: Videos.
        prompts: One per video; what the first object of a prompt does not state is not counted.
        tier: World that the judge knows.

    Returns:
        `colour`, `object` and `motion`, as far as any prompt states them.

    Raises:
        UserError: if there is no such tier.
    """
    hits: dict[str, list[bool]] = {}
    for clip, prompt in zip(clips, prompts, strict=True):
        for axis, (stated, seen) in _answers(clip, prompt, tier).items():
            hits.setdefault(axis, []).append(stated == seen)
    return {axis: float(np.mean(found)) for axis, found in hits.items()}


def _answers(clip: np.ndarray, prompt: str, tier: str) -> Mapping[str, tuple[str, str | None]]:
    objects = parse(prompt).objects
    if not objects:
        return {}
    stated, verdict = objects[0], judge(clip, tier)
    motion = _JUDGED_MOTIONS.get(stated.motions[0].name) if len(stated.motions) == 1 else None
    answers = {
        "colour": (stated.colour, verdict.colour),
        "object": (stated.kind, verdict.object),
        "motion": (motion, verdict.motion),
    }
    return {axis: (said, seen) for axis, (said, seen) in answers.items() if said is not None}
