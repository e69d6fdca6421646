"""Puts the objects of a scene somewhere: the numbers behind the facts. `checks` tells whether the facts then show."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from m4v.toybox.drawing import pick
from m4v.toybox.facts import ObjectFacts, PartialScene
from m4v.toybox.models import MODELS
from m4v.toybox.motions import FACING_KINDS, HEADINGS, heading_yaw
from m4v.toybox.palette import STUDIO_TINTS
from m4v.toybox.records import MotionStep, Scene, SceneObject
from m4v.toybox.tiers import Tier

SIZE_FACTORS: Final = {"small": 0.68, "medium": 1.0, "large": 1.32}

_AMOUNTS: Final = {
    "left": (1.5, 1.9),
    "right": (1.5, 1.9),
    "toward": (1.7, 2.0),
    "away": (1.7, 2.0),
    "jumps": (0.7, 0.9),
    "bounces": (0.6, 0.85),
    "falls": (2.0, 2.4),
    "rises": (1.1, 1.5),
    "sways": (0.26, 0.34),
    "grows": (1.9, 2.2),
    "shrinks": (0.42, 0.52),
    "chases": (1.05, 1.15),
}
"""How far, high or much each motion goes, in the units of `records.MotionStep.amount`."""

_CAMERA_AMOUNTS: Final = {
    "static": 0.0,
    "pans left": 0.36,
    "pans right": 0.36,
    "orbits": 0.8,
    "moves closer": 0.36,
    "pulls back": 0.36,
    "rises": 0.34,
}
_SUN_HEIGHT: Final = float(np.radians(56.0))
_LOW_SUN_HEIGHT: Final = float(np.radians(32.0))

Place = Float[np.ndarray, "2"]


@dataclass
class _Toy:
    """An object on its way to a place."""

    facts: ObjectFacts
    kind: str
    scale: float
    amounts: list[float]
    place: Place
    height: float = 0.0

    @property
    def radius(self) -> float:
        return MODELS[self.kind].radius * self.scale

    @property
    def first(self) -> str:
        return self.facts.motions[0].name if self.facts.motions else "still"


def _said(value: str | None) -> str:
    assert value is not None, "the facts are complete"
    return value


@dataclass(frozen=True)
class Placer:
    """Places objects of complete facts; every call of `scene` is another try."""

    rng: np.random.Generator
    tier: Tier

    def scene(self, facts: PartialScene, num_frames: int, seed: int) -> Scene:
        """Return a scene of these facts."""
        toys = [self._toy(item, len(facts.objects)) for item in facts.objects]
        self._spread(toys, facts)
        self._start(toys)
        self._engage(toys)
        for relation in facts.relations:
            if relation.name == "on top of":
                carrier, rider = toys[relation.target], toys[relation.subject]
                rider.place = carrier.place
                rider.height = carrier.scale * (MODELS[carrier.kind].top or MODELS[carrier.kind].height)
        varied, camera, sky = self.tier.has_varied_backdrop, _said(facts.camera), _said(facts.sky)
        x, y, cloud = (self._uniform(0.0, 40.0) if varied else 0.0 for _ in range(3))
        return Scene(
            tier=self.tier.name,
            num_frames=num_frames,
            fps=self.tier.fps,
            objects=tuple(self._object(toys, index) for index in range(len(toys))),
            relations=facts.relations,
            camera=camera,
            camera_amount=_CAMERA_AMOUNTS[camera],
            camera_distance=self.tier.camera_distance,
            ground=_said(facts.ground),
            sky=sky,
            sky_tint=int(self.rng.integers(len(STUDIO_TINTS))) if varied else 0,
            light=_said(facts.light),
            sun_height=_LOW_SUN_HEIGHT if sky == "sunset" else _SUN_HEIGHT,
            backdrop=(x, y, cloud),
            clouds=self._uniform(0.35, 0.85) if varied and sky in ("clear day", "sunset") else 0.0,
            seed=seed,
        )

    def _uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _sign(self) -> float:
        return pick(self.rng, (1.0, -1.0))

    def _toy(self, item: ObjectFacts, count: int) -> _Toy:
        names = [step.name for step in item.motions]
        scale = self.tier.object_scale * SIZE_FACTORS[_said(item.size)] * self._uniform(0.95, 1.05)
        scale *= 0.85 if count > 2 else 1.0
        # What grows starts small, and what shrinks starts large.
        scale *= 0.62 if "grows" in names else 1.1 if "shrinks" in names else 1.0
        share = 0.75 if len(names) > 1 else 1.0
        amounts = []
        for name in names:
            if name in ("spins", "circles"):
                amounts.append(self._sign() * self._uniform(0.9, 1.1))
            else:
                amounts.append(self._uniform(*_AMOUNTS.get(name, (0.0, 0.0))) * (share if name in HEADINGS else 1.0))
        return _Toy(facts=item, kind=_said(item.kind), scale=scale, amounts=amounts, place=np.zeros(2))

    def _spread(self, toys: list[_Toy], facts: PartialScene) -> None:
        """Give every object the middle of its stay; the first two stand as their relation asks."""
        if len(toys) == 1:
            toys[0].place = np.array([self._uniform(-0.2, 0.2), self._uniform(-0.15, 0.2)])
            return
        relation = facts.relations[0] if facts.relations else None
        reach = toys[0].radius + toys[1].radius + self._uniform(0.15, 0.5)
        is_linked = any(step.target is not None for toy in toys[:2] for step in toy.facts.motions)
        in_depth = self.rng.random() < 0.25 and not is_linked
        if relation is not None:
            in_depth = relation.name in ("in front of", "behind")
        if in_depth:
            offset = np.array([self._sign() * self._uniform(0.4, 0.8), max(1.3, 0.8 * reach)])
        else:
            offset = np.array([max(reach, 1.3), self._uniform(-0.3, 0.3)])
        is_first_low = self.rng.random() < 0.5
        if relation is not None and relation.name != "on top of":
            is_first_low = (relation.subject == 0) == (relation.name in ("left of", "in front of"))
        middle = np.array([self._uniform(-0.15, 0.15), self._uniform(0.0, 0.4)])
        half = 0.5 * offset if is_first_low else -0.5 * offset
        toys[0].place, toys[1].place = middle - half, middle + half
        for toy in toys[2:]:
            toy.place = np.array([self._uniform(-1.9, 1.9), self._uniform(-0.7, 1.8)])

    def _start(self, toys: list[_Toy]) -> None:
        """Move travellers back, so that the middle of their way is the middle of their stay."""
        for toy in toys:
            if toy.first in HEADINGS:
                # Depth is travelled in the back half of the stage: nearer, the picture would cut the object.
                lift = 0.55 if toy.first in ("toward", "away") else 0.0
                toy.place = toy.place - 0.5 * toy.amounts[0] * np.array(HEADINGS[toy.first]) + (0.0, lift)

    def _engage(self, toys: list[_Toy]) -> None:
        """Bring those that circle, chase or bump to the right distance from the other."""
        for index, toy in enumerate(toys):
            for number, step in enumerate(toy.facts.motions):
                if step.target is None:
                    continue
                other = toys[step.target]
                gap = toy.radius + other.radius
                apart = toy.place - other.place
                away = apart / max(float(np.hypot(*apart)), 1e-6)
                if step.name == "chases":
                    heading = np.array(HEADINGS[_travel_of(other)])
                    middle = other.place
                    other.place = middle + 0.5 * (gap + 0.2) * heading
                    toy.place = middle - 0.5 * (gap + 0.2) * heading
                elif step.name == "circles":
                    toy.place = other.place + (gap + 0.15) * away
                else:
                    distance = self._uniform(0.7, 1.0)
                    toy.place = other.place + (gap + distance) * away
                    # They touch a little before their rounded outlines would.
                    toys[index].amounts[number] = distance + 0.08 * gap

    def _object(self, toys: list[_Toy], index: int) -> SceneObject:
        toy = toys[index]
        steps = tuple(
            MotionStep(name=step.name, target=step.target, amount=amount)
            for step, amount in zip(toy.facts.motions, toy.amounts, strict=True)
        )
        return SceneObject(
            kind=toy.kind,
            colour=_said(toy.facts.colour),
            material=_said(toy.facts.material),
            size=_said(toy.facts.size),
            motions=steps,
            position=(float(toy.place[0]), float(toy.place[1]), toy.height),
            yaw=self._yaw(toys, toy),
            scale=toy.scale,
        )

    def _yaw(self, toys: list[_Toy], toy: _Toy) -> float:
        """Turn a toy where it goes, or show it at its best."""
        wobble = self._uniform(-0.1, 0.1)
        best = wobble + self._sign() * float(np.radians(MODELS[toy.kind].view_yaw))
        if toy.kind not in FACING_KINDS or not toy.facts.motions:
            return best
        step = toy.facts.motions[0]
        if step.name in HEADINGS:
            return 0.5 * wobble + heading_yaw(step.name)
        if step.target is None:
            return best
        if step.name == "chases":
            return heading_yaw(_travel_of(toys[step.target]))
        x, y = toys[step.target].place - toy.place
        if step.name == "circles":
            x, y = (y, -x) if toy.amounts[0] > 0 else (-y, x)
        return float(np.arctan2(x, -y))


def _travel_of(toy: _Toy) -> str:
    """Return the direction in which a chased object travels."""
    return next(step.name for step in toy.facts.motions if step.name in HEADINGS)
