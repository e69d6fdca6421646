"""Fills in what a prompt leaves unsaid, so that any prompt becomes a scene."""

from dataclasses import replace
from typing import Final

import numpy as np

from m4v.core.errors import UserError
from m4v.toybox import axes
from m4v.toybox.drawing import can_perform, pick
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene
from m4v.toybox.tiers import Tier

MOST_OBJECTS: Final = 8
"""Objects in a scene that the renderer tells apart."""


def complete(facts: PartialScene, rng: np.random.Generator, tier: Tier) -> PartialScene:
    """Fill what is unsaid with values of the tier; a chased object always travels.

    Raises:
        UserError: If there are more than 8 objects.
    """
    if len(facts.objects) > MOST_OBJECTS:
        raise UserError(f"the prompt speaks of {len(facts.objects)} objects; the toybox shows at most {MOST_OBJECTS}")
    stated = facts.objects or (ObjectFacts(),)
    # Objects of which the same is said ("two balls") are alike.
    looks = {item: _looks(item, rng, tier) for item in stated}
    objects = [looks[item] for item in stated]
    riders = {relation.target for relation in facts.relations if relation.name == "on top of"}
    for index in range(len(objects)):
        roles = {step.name for item in objects for step in item.motions if step.target == index}
        twin = stated.index(stated[index])
        if twin < index and not roles and index not in riders:
            objects[index] = objects[twin]
        else:
            objects[index] = _motions(objects[index], roles, index in riders, rng, tier)
    return PartialScene(
        objects=tuple(objects),
        relations=facts.relations,
        camera=facts.camera or "static",
        ground=facts.ground or pick(rng, tier.grounds),
        sky=facts.sky or pick(rng, tier.skies),
        light=facts.light or pick(rng, axes.LIGHTS),
    )


def _looks(item: ObjectFacts, rng: np.random.Generator, tier: Tier) -> ObjectFacts:
    return replace(
        item,
        kind=item.kind or pick(rng, tier.objects),
        colour=item.colour or pick(rng, tier.colours),
        material=item.material or pick(rng, tier.materials),
        size=item.size or "medium",
    )


def _motions(item: ObjectFacts, roles: set[str], is_carrier: bool, rng: np.random.Generator, tier: Tier) -> ObjectFacts:
    """Give an object a motion that suits its roles as the target of others."""
    names: tuple[str, ...]
    if "chases" in roles:
        if any(step.name in axes.TRAVEL_MOTIONS for step in item.motions):
            return item
        names = ("left", "right")
    elif item.motions or "bumps" in roles:
        return item
    elif roles or is_carrier:
        names = ("still",)
    else:
        names = tuple(
            name
            for name in tier.motions
            if name not in axes.TARGET_MOTIONS and can_perform(item.kind or "", item.material or "", name)
        )
    return replace(item, motions=(MotionFact(name=pick(rng, names)),))
