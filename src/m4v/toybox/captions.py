"""Writes captions from scene records, in many wordings, never false; `parse` reads them back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from m4v.core.seeds import fold_seed
from m4v.toybox import lexicon
from m4v.toybox.caption_parser import parse, vocabulary
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene
from m4v.toybox.models import MODELS
from m4v.toybox.records import MotionStep, Relation, Scene, SceneObject
from m4v.toybox.tiers import get_tier

__all__ = ["VOCABULARY", "Captions", "canonical_caption", "parse", "write_captions"]

VOCABULARY: Final = vocabulary()
"""Every word that any template can emit, sorted."""

_DROP: Final = 0.3
_DROP_COLOUR: Final = 0.04
_DROP_MOTION: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Two captions of a scene and exactly what each states."""

    short: str
    long: str
    short_facts: PartialScene
    long_facts: PartialScene

    @property
    def texts(self) -> tuple[str, str]:
        """Both captions."""
        return self.short, self.long


def write_captions(scene: Scene, seed: int, *, is_paraphrase: bool = False) -> Captions:
    """Describe a scene, differently for every seed.

    Args:
        is_paraphrase: Use the wordings held out of training, and only those where one exists.
    """
    short_style = _Style.drawn(fold_seed(seed, "short"), is_long=False, is_held=is_paraphrase)
    long_style = _Style.drawn(fold_seed(seed, "long"), is_long=True, is_held=is_paraphrase)
    short, short_facts = _Writer(scene, short_style).write()
    long, long_facts = _Writer(scene, long_style).write()
    return Captions(short=short, long=long, short_facts=short_facts, long_facts=long_facts)


def canonical_caption(scene: Scene) -> str:
    """Describe a scene in one fixed short form: first wording of everything that is not ordinary."""
    return _Writer(scene, _Style.canonical()).write()[0]


@dataclass(frozen=True)
class _Style:
    """Decides wordings (`choose` among variants), omissions (`drops` a clause) and coin tosses (`tosses`)."""

    choose: Callable[[tuple[str, ...]], str]
    choose_free: Callable[[tuple[str, ...]], str]
    drops: Callable[[str], bool]
    tosses: Callable[[float], bool]
    is_canonical: bool = False

    @classmethod
    def drawn(cls, seed: int, *, is_long: bool, is_held: bool) -> "_Style":
        """Draw the style of one caption; `choose` takes the held-out last variant or one of the others."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        dropped = {"colour": _DROP_COLOUR, "motion": _DROP_MOTION}

        def choose_free(variants: tuple[str, ...]) -> str:
            return variants[int(rng.integers(len(variants)))]

        def choose(variants: tuple[str, ...]) -> str:
            return variants[-1] if is_held else choose_free(variants[:-1])

        def drops(clause: str) -> bool:
            return not is_long and bool(rng.random() < dropped.get(clause, _DROP))

        return cls(choose, choose_free, drops, lambda share: bool(rng.random() < share))

    @classmethod
    def canonical(cls) -> "_Style":
        """Return the style without any chance."""
        return cls(lambda v: v[0], lambda v: v[0], lambda clause: False, lambda share: False, is_canonical=True)


class _Writer:
    """Writes one caption and notes what it states, objects in the order of their first mention."""

    def __init__(self, scene: Scene, style: _Style) -> None:
        self.scene, self.style = scene, style
        tier = get_tier(scene.tier)
        self.says_finish = len(tier.materials) > 1
        self.says_sky = len(tier.skies) > 1
        self.says_camera = len(tier.cameras) > 1
        self.order: list[int] = []
        self.stated: dict[int, dict[str, str]] = {}
        self.motions: dict[int, tuple[MotionStep, ...]] = {}
        self.relations: list[Relation] = []
        self.frame: dict[str, str] = {}
        kinds = [item.kind for item in scene.objects]
        self.is_group = len(kinds) > 1 and len({_look(item) for item in scene.objects}) == 1
        self.needs_colour = len(set(kinds)) < len(kinds) and not self.is_group

    def write(self) -> tuple[str, PartialScene]:
        """Return the caption and its facts."""
        style = self.style
        opening = style.choose(lexicon.OPENINGS) if style.tosses(0.25) else ""
        prefixes, suffixes, sentences = self._settings(may_lead=not opening.startswith("a "))
        parts: list[str] = []
        if self.is_group:
            noun, motion = self._group_noun(), self._motion(0, is_plural=True)
            parts.append(opening.replace("is", "are") + _joined(noun, "that" if opening else "", motion))
            self.motions = {n: self.motions.get(0, ()) for n in range(len(self.scene.objects))}
        else:
            related = self._relation_first()
            if related is not None:
                parts.append(related)
                opening = ""
            parts += self._clauses(opening)
        text = self._join(parts)
        text = _joined(", ".join([*prefixes, text]) if prefixes else text, *suffixes)
        text = ". ".join([text, *sentences])
        return text, self._facts()

    def _settings(self, *, may_lead: bool) -> tuple[list[str], list[str], list[str]]:
        """Return what stands before the objects, after them, and as sentences of its own."""
        scene, style = self.scene, self.style
        prefixes: list[str] = []
        suffixes: list[str] = []
        sentences: list[str] = []
        clauses: list[tuple[str, str, dict[str, tuple[str, ...]]]] = [("ground", scene.ground, lexicon.GROUNDS)]
        if self.says_sky and not (style.is_canonical and scene.sky == "clear day"):
            clauses.append(("sky", scene.sky, lexicon.SKIES))
        if self.says_sky and not style.is_canonical:
            clauses.append(("light", scene.light, lexicon.LIGHTS))
        for axis, value, table in clauses:
            if style.drops(axis):
                continue
            self.frame[axis] = value
            phrase = style.choose(table[value])
            if may_lead and axis != "light" and style.tosses(0.3):
                prefixes.append(phrase)
            else:
                suffixes.append(phrase)
        if self.says_camera and not (style.is_canonical and scene.camera == "static") and not style.drops("camera"):
            self.frame["camera"] = scene.camera
            sentences.append(style.choose(lexicon.CAMERAS[scene.camera]))
        return prefixes, suffixes, sentences

    def _relation_first(self) -> str | None:
        """State a relation as the sentence that introduces its two objects."""
        if not self.scene.relations or self.style.drops("relation"):
            return None
        relation = self.scene.relations[0]
        self.relations.append(relation)
        subject, target = self._noun(relation.subject), self._noun(relation.target)
        return f"{subject} is {self.style.choose(lexicon.RELATIONS[relation.name])} {target}"

    def _clauses(self, opening: str) -> list[str]:
        """Return a clause for every object: who, and what it does."""
        indices = list(range(len(self.scene.objects)))
        if self.style.tosses(0.5):
            indices.reverse()
        parts = []
        for index in indices:
            is_new = index not in self.order
            noun = self._noun(index)
            motion = self._motion(index)
            if motion or is_new:
                parts.append(opening + _joined(noun, "that" if opening and motion else "", motion))
                opening = ""
        return parts

    def _join(self, parts: list[str]) -> str:
        text = parts[0]
        for part in parts[1:]:
            # A new sentence where a bare list of names would swallow the next clause.
            text += (self.style.choose_free(lexicon.JOINTS) if not self.relations else ". ") + part
        return text

    def _noun(self, index: int) -> str:
        """Introduce an object, or speak of it again."""
        item = self.scene.objects[index]
        if index in self.order:
            looks = [self.stated[index]["colour"]] if "colour" in self.stated[index] else []
            return " ".join(["the", *looks, self._name(item)])
        looks, stated = self._looks(item)
        self.order.append(index)
        self.stated[index] = stated
        words = [*looks, self._name(item)]
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([article, *words])

    def _name(self, item: SceneObject) -> str:
        return self.style.choose_free(lexicon.KINDS[item.kind])

    def _looks(self, item: SceneObject) -> tuple[list[str], dict[str, str]]:
        style, looks, stated = self.style, [], {"kind": item.kind}
        is_plain = style.is_canonical and item.material == "matte"
        if item.size != "medium" and not style.drops("size"):
            looks.append(style.choose_free(lexicon.SIZES[item.size]))
            stated["size"] = item.size
        if self.says_finish and not is_plain and not style.drops("material"):
            looks.append(style.choose_free(lexicon.MATERIALS[item.material]))
            stated["material"] = item.material
        if self.needs_colour or not style.drops("colour"):
            looks.append(item.colour)
            stated["colour"] = item.colour
        return looks, stated

    def _group_noun(self) -> str:
        item, count = self.scene.objects[0], len(self.scene.objects)
        looks, stated = self._looks(item)
        self.order = list(range(count))
        self.stated = dict.fromkeys(self.order, stated)
        number = next(word for word, value in lexicon.NUMBERS.items() if value == count)
        return " ".join([number, *looks, lexicon.plural_noun(self._name(item))])

    def _motion(self, index: int, *, is_plural: bool = False) -> str:
        item, style = self.scene.objects[index], self.style
        if not item.motions or style.drops("motion"):
            return ""
        self.motions[index] = item.motions
        phrases = []
        for step in item.motions:
            target = "" if step.target is None else self._noun(step.target)
            move = lexicon.MOVE_VERBS[MODELS[item.kind].verb]
            phrase = style.choose(lexicon.MOTIONS[step.name]).format(move=move, target=target)
            phrases.append(lexicon.plural_verb(phrase) if is_plural else phrase)
        return style.choose_free(lexicon.THEN).join(phrases)

    def _facts(self) -> PartialScene:
        place = {index: number for number, index in enumerate(self.order)}
        objects = tuple(
            ObjectFacts(
                **self.stated[index],
                motions=tuple(
                    MotionFact(name=step.name, target=None if step.target is None else place[step.target])
                    for step in self.motions.get(index, ())
                ),
            )
            for index in self.order
        )
        relations = tuple(
            Relation(name=r.name, subject=place[r.subject], target=place[r.target]) for r in self.relations
        )
        return PartialScene(
            objects=objects,
            relations=relations,
            camera=self.frame.get("camera"),
            ground=self.frame.get("ground"),
            sky=self.frame.get("sky"),
            light=self.frame.get("light"),
        )


def _look(item: SceneObject) -> tuple[str, str, str, str]:
    return item.kind, item.colour, item.material, item.size


def _joined(*pieces: str) -> str:
    return " ".join(piece for piece in pieces if piece)
