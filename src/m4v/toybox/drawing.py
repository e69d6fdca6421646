"""Draws what a scene shows, axis by axis, from the cells that a split allows."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeVar

import numpy as np

from m4v.toybox import axes, palette
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene
from m4v.toybox.heldout import is_held_out_group, is_held_out_motion, is_held_out_pair, is_held_out_relation
from m4v.toybox.models import MODELS
from m4v.toybox.records import Relation
from m4v.toybox.tiers import Tier

_Item = TypeVar("_Item")

_ALIKE_SHARE: Final = 0.12
_RELATION_SHARE: Final = 0.6
_TARGET_SHARE: Final = 0.25
_SECOND_STEPS: Final = ("still", "left", "right", "toward", "away", "jumps", "spins", "sways", "grows", "shrinks")
_FIRST_STEPS: Final = ("falls", "bounces", *_SECOND_STEPS)
_CHASED_STEPS: Final = ("left", "right")
CARRIERS: Final = tuple(kind for kind in axes.OBJECTS if MODELS[kind].top is not None)
"""Kinds with a flat top that another toy can stand on."""


def pick(rng: np.random.Generator, items: tuple[_Item, ...], weights: tuple[float, ...] | None = None) -> _Item:
    """Draw one of several items, uniformly unless weights (adding up to 1) are given."""
    if weights is None:
        return items[int(rng.integers(len(items)))]
    return items[min(int(np.searchsorted(np.cumsum(weights), rng.random(), side="right")), len(items) - 1)]


def can_perform(kind: str, material: str, motion: str) -> bool:
    """Tell whether a motion shows on a toy: a spin does not where all sides look alike."""
    return motion != "spins" or material == "checkered" or not MODELS[kind].is_round


@cache
def pairs(tier: Tier, ground: str, is_held_out: bool) -> tuple[tuple[str, str], ...]:
    """Return the (object, colour) pairs of a tier that stand out from a ground, held out of training or not."""
    return tuple(
        (kind, colour)
        for kind in tier.objects
        for colour in tier.colours
        if is_held_out_pair(kind, colour) == is_held_out and (colour, ground) not in palette.CLASHES
    )


@dataclass(frozen=True)
class Drawer:
    """Draws the facts of a scene of one tier and split from `rng`."""

    rng: np.random.Generator
    tier: Tier
    split: str

    def facts(self, count: int) -> PartialScene:
        """Draw a full record of `count` objects; one whose cells the split does not allow is never returned."""
        ground, sky = pick(self.rng, self.tier.grounds), pick(self.rng, self.tier.skies)
        light = pick(self.rng, axes.LIGHTS)
        is_alike = count > 1 and (self.split == "count" or self.rng.random() < _ALIKE_SHARE)
        is_alike = is_alike and self.split not in ("attribute", "motion", "relation")
        objects = self._alike(count, ground) if is_alike else self._different(count, ground)
        camera = pick(self.rng, self.tier.cameras, self.tier.camera_weights)
        relations: tuple[Relation, ...] = ()
        if count > 1 and not is_alike and self.tier.relations:
            camera, relations, objects = self._relate(camera, objects)
        if not is_alike:
            objects = self._involve(objects, relations)
        return PartialScene(objects=objects, relations=relations, camera=camera, ground=ground, sky=sky, light=light)

    def count(self) -> int:
        """Draw the number of objects."""
        counts = tuple(range(1, self.tier.max_objects + 1))
        if self.split in ("relation", "count"):
            return pick(self.rng, counts[1:])
        return pick(self.rng, counts, self.tier.count_weights)

    def _object(self, ground: str, is_held_out: bool, is_motion_held_out: bool) -> ObjectFacts | None:
        kind, colour = pick(self.rng, pairs(self.tier, ground, is_held_out))
        material = pick(self.rng, self.tier.materials)
        size = pick(self.rng, self.tier.sizes)
        motions = tuple(
            motion
            for motion in self.tier.motions
            if motion not in axes.TARGET_MOTIONS
            and can_perform(kind, material, motion)
            and is_held_out_motion(kind, motion) == is_motion_held_out
        )
        if not motions:
            return None
        steps: tuple[MotionFact, ...] = (MotionFact(name=pick(self.rng, motions)),)
        if not is_motion_held_out and self.rng.random() < self.tier.two_step_share:
            steps = self._two_steps(motions) or steps
        return ObjectFacts(kind=kind, colour=colour, material=material, size=size, motions=steps)

    def _two_steps(self, motions: tuple[str, ...]) -> tuple[MotionFact, ...]:
        first = tuple(name for name in motions if name in _FIRST_STEPS)
        second = tuple(name for name in motions if name in _SECOND_STEPS)
        names = (pick(self.rng, first), pick(self.rng, second))
        return () if names[0] == names[1] else tuple(MotionFact(name=name) for name in names)

    def _different(self, count: int, ground: str) -> tuple[ObjectFacts, ...]:
        objects: list[ObjectFacts] = []
        while len(objects) < count:
            is_first = not objects
            item = self._object(ground, is_first and self.split == "attribute", is_first and self.split == "motion")
            if item is not None and (item.kind, item.colour) not in [(o.kind, o.colour) for o in objects]:
                objects.append(item)
        return tuple(objects)

    def _alike(self, count: int, ground: str) -> tuple[ObjectFacts, ...]:
        while True:
            item = self._object(ground, False, False)
            if (
                item is not None
                and len(item.motions) == 1
                and is_held_out_group(item.kind or "", count) == (self.split == "count")
            ):
                return (item,) * count

    def _relate(
        self, camera: str, objects: tuple[ObjectFacts, ...]
    ) -> tuple[str, tuple[Relation, ...], tuple[ObjectFacts, ...]]:
        """Relate the first two objects; in the relation split by a relation held out under the camera."""
        name = pick(self.rng, self.tier.relations)
        subject, target = pick(self.rng, ((0, 1), (1, 0)))
        stacked = self._stack(objects, subject, target) if name == "on top of" else objects
        if stacked is None:
            name, stacked = pick(self.rng, tuple(r for r in self.tier.relations if r != "on top of")), objects
        if self.split == "relation":
            camera = next(camera for camera in self.tier.cameras if is_held_out_relation(name, camera))
        elif self.rng.random() >= _RELATION_SHARE or is_held_out_relation(name, camera):
            return camera, (), objects
        return camera, (Relation(name=name, subject=subject, target=target),), stacked

    def _stack(self, objects: tuple[ObjectFacts, ...], subject: int, target: int) -> tuple[ObjectFacts, ...] | None:
        """Let one object stand on another: give it a motion in place, and the other a flat top to keep still."""
        rider, carrier = objects[subject], objects[target]
        others = [(item.kind, item.colour) for index, item in enumerate(objects) if index != target]
        carriers = tuple(
            kind
            for kind in CARRIERS
            if kind in self.tier.objects
            and not is_held_out_pair(kind, carrier.colour or "")
            and not is_held_out_motion(kind, "still")
            and (kind, carrier.colour) not in others
        )
        steps = tuple(
            motion
            for motion in axes.UPRIGHT_MOTIONS
            if motion in self.tier.motions
            and can_perform(rider.kind or "", rider.material or "", motion)
            and not is_held_out_motion(rider.kind or "", motion)
        )
        # The first object carries the cell of these splits, so it stays as it is.
        if not carriers or not steps or self.split in ("attribute", "motion"):
            return None
        changed = list(objects)
        changed[subject] = replace(
            rider,
            size="medium" if rider.size == "large" else rider.size,
            motions=(MotionFact(name=pick(self.rng, steps)),),
        )
        changed[target] = replace(carrier, kind=pick(self.rng, carriers), motions=(MotionFact(name="still"),))
        return tuple(changed)

    def _involve(self, objects: tuple[ObjectFacts, ...], relations: tuple[Relation, ...]) -> tuple[ObjectFacts, ...]:
        """Sometimes let one of the first two objects circle, chase or bump into the other."""
        names = tuple(name for name in self.tier.motions if name in axes.TARGET_MOTIONS)
        if len(objects) < 2 or not names or any(relation.name == "on top of" for relation in relations):
            return objects
        forced = self.split == "motion" and self.rng.random() < _TARGET_SHARE
        if self.rng.random() >= _TARGET_SHARE and not forced:
            return objects
        subject, target = (0, 1) if self.split == "motion" or self.rng.random() < 0.5 else (1, 0)
        name = pick(self.rng, names)
        active, passive = objects[subject], objects[target]
        if is_held_out_motion(active.kind or "", name) != (self.split == "motion"):
            return objects
        if relations and (name == "bumps" or relations[0].name in ("in front of", "behind")):
            return objects
        steps: tuple[MotionFact, ...] = ()
        if name != "bumps":
            wanted = ("still", "sways") if name == "circles" else _CHASED_STEPS
            allowed = tuple(step for step in wanted if not is_held_out_motion(passive.kind or "", step))
            if not allowed:
                return objects
            steps = (MotionFact(name=pick(self.rng, allowed)),)
        changed = list(objects)
        changed[subject] = replace(active, motions=(MotionFact(name=name, target=target),))
        changed[target] = replace(passive, motions=steps)
        return tuple(changed)
