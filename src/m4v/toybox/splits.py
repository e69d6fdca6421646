"""Fixed prompt lists for evaluation, built by rule: seen combinations, and held-out pairs of object and colour."""

from dataclasses import dataclass
from functools import cache
from typing import Final

from m4v.core.seeds import fold_seed
from m4v.toybox import axes, palette
from m4v.toybox.captions import canonical_caption
from m4v.toybox.drawing import can_perform, pairs
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene
from m4v.toybox.heldout import is_held_out_motion
from m4v.toybox.records import Scene
from m4v.toybox.scene import scene_from_facts
from m4v.toybox.tiers import get_tier

_SEEN_AT_LEAST: Final = 60
_SETTINGS_PER_HELD_OUT_PAIR: Final = 20


@dataclass(frozen=True, kw_only=True)
class EvaluationPrompt:
    """A prompt and a scene that shows it, whose render is the best possible answer."""

    text: str
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class EvaluationPrompts:
    """Prompts of seen combinations, and of held-out (object, colour) pairs; motions and grounds vary in both."""

    seen: tuple[EvaluationPrompt, ...]
    held_out: tuple[EvaluationPrompt, ...]


@cache
def evaluation_prompts(tier: str) -> EvaluationPrompts:
    """Return the prompt lists of a tier, always the same; no prompt holds a held-out (object, motion) cell.

    Raises:
        UserError: If there is no such tier.
    """
    allowed = get_tier(tier)
    seen_pairs = _pairs(tier, is_held_out=False)
    rounds = -(-_SEEN_AT_LEAST // len(seen_pairs))
    seen = [
        _prompt(tier, kind, colour, number + turn, turn, number)
        for turn in range(rounds)
        for number, (kind, colour) in enumerate(seen_pairs)
    ]
    held_out = [
        _prompt(tier, kind, colour, place, place // len(_motions(tier, kind)), number)
        for number, (kind, colour) in enumerate(_pairs(tier, is_held_out=True))
        for place in range(min(_SETTINGS_PER_HELD_OUT_PAIR, len(_motions(tier, kind)) * len(allowed.grounds)))
    ]
    return EvaluationPrompts(seen=tuple(seen), held_out=tuple(held_out))


def _pairs(tier: str, *, is_held_out: bool) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a tier that stand out from at least one ground."""
    allowed = get_tier(tier)
    found = {pair: None for ground in allowed.grounds for pair in pairs(allowed, ground, is_held_out)}
    return tuple(sorted(found, key=lambda pair: (axes.OBJECTS.index(pair[0]), axes.COLOURS.index(pair[1]))))


def _motions(tier: str, kind: str) -> tuple[str, ...]:
    return tuple(
        motion
        for motion in get_tier(tier).motions
        if motion not in axes.TARGET_MOTIONS and can_perform(kind, "matte", motion)
        and not is_held_out_motion(kind, motion)
    )  # fmt: skip


def _prompt(tier: str, kind: str, colour: str, motion_number: int, turn: int, number: int) -> EvaluationPrompt:
    """Pair a motion and a ground; `turn` shifts the grounds, so that every pairing comes once."""
    motions = _motions(tier, kind)
    grounds = [ground for ground in get_tier(tier).grounds if (colour, ground) not in palette.CLASHES]
    motion = motions[motion_number % len(motions)]
    ground = grounds[(motion_number % len(motions) + turn + number) % len(grounds)]
    facts = PartialScene(
        objects=(
            ObjectFacts(kind=kind, colour=colour, material="matte", size="medium", motions=(MotionFact(name=motion),)),
        ),
        camera="static",
        ground=ground,
        sky="clear day",
    )
    scene = scene_from_facts(facts, fold_seed(0, "evaluation", kind, colour, motion, ground), tier)
    return EvaluationPrompt(text=canonical_caption(scene), scene=scene)
