"""What can be said about a scene: partial records, as captions state them, and their truth."""

from dataclasses import dataclass
from itertools import permutations

from m4v.toybox.records import MotionStep, Relation, Scene


@dataclass(frozen=True, kw_only=True)
class MotionFact:
    """One stated motion; `target` indexes the objects of the same partial scene."""

    name: str
    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """What is stated about one object; None and the empty tuple mean unsaid."""

    kind: str | None = None
    colour: str | None = None
    material: str | None = None
    size: str | None = None
    motions: tuple[MotionFact, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PartialScene:
    """What is stated about a scene.

    Attributes:
        unknown_words: Words of a typed prompt outside the vocabulary, in order of appearance, each once.
    """

    objects: tuple[ObjectFacts, ...] = ()
    relations: tuple[Relation, ...] = ()
    camera: str | None = None
    ground: str | None = None
    sky: str | None = None
    light: str | None = None
    unknown_words: tuple[str, ...] = ()


def facts_of(scene: Scene) -> PartialScene:
    """Return everything that can be said about a scene."""
    return PartialScene(
        objects=tuple(
            ObjectFacts(
                kind=item.kind,
                colour=item.colour,
                material=item.material,
                size=item.size,
                motions=tuple(MotionFact(name=step.name, target=step.target) for step in item.motions),
            )
            for item in scene.objects
        ),
        relations=scene.relations,
        camera=scene.camera,
        ground=scene.ground,
        sky=scene.sky,
        light=scene.light,
    )


def is_true(facts: PartialScene, scene: Scene) -> bool:
    """Tell whether a scene agrees with every stated fact, its objects taken in any order."""
    for name in ("camera", "ground", "sky", "light"):
        if getattr(facts, name) not in (None, getattr(scene, name)):
            return False
    if len(facts.objects) > len(scene.objects):
        return False
    return any(_matches(facts, scene, order) for order in permutations(range(len(scene.objects)), len(facts.objects)))


def _matches(facts: PartialScene, scene: Scene, order: tuple[int, ...]) -> bool:
    for stated, index in zip(facts.objects, order, strict=True):
        item = scene.objects[index]
        for name in ("kind", "colour", "material", "size"):
            if getattr(stated, name) not in (None, getattr(item, name)):
                return False
        if stated.motions and tuple(_resolved(step, order) for step in stated.motions) != tuple(
            (step.name, step.target) for step in item.motions
        ):
            return False
    held = {(relation.name, relation.subject, relation.target) for relation in scene.relations}
    return all((r.name, order[r.subject], order[r.target]) in held for r in facts.relations)


def _resolved(step: MotionFact | MotionStep, order: tuple[int, ...]) -> tuple[str, int | None]:
    return step.name, None if step.target is None else order[step.target]
