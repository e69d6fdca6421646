"""Reads captions and whatever people type: known phrases become facts, the rest is reported, nothing ever fails."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from m4v.toybox import axes, lexicon
from m4v.toybox.facts import MotionFact, ObjectFacts, PartialScene
from m4v.toybox.records import Relation

Phrase = tuple[str, ...]

_ARTICLES: Final = ("a", "an", "one")
_GLUE: Final = frozenset(("which", "it", "they", "its", "also"))
_COPULAS: Final = ("is", "are")
_END: Final = "."


@cache
def _phrases() -> dict[Phrase, tuple[str, str]]:
    """Return every readable phrase as words, with its axis and value."""
    table: dict[Phrase, tuple[str, str]] = {}

    def add(axis: str, value: str, phrases: Iterable[str]) -> None:
        for phrase in phrases:
            table.setdefault(tuple(phrase.split()), (axis, value))

    for kind, names in lexicon.KINDS.items():
        add("kind", kind, names)
        add("kinds", kind, map(lexicon.plural_noun, names))
    add_all: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
        ("material", lexicon.MATERIALS),
        ("size", lexicon.SIZES),
        ("relation", lexicon.RELATIONS),
        ("camera", lexicon.CAMERAS),
        ("ground", lexicon.GROUNDS),
        ("ground", lexicon.MORE_GROUNDS),
        ("sky", lexicon.SKIES),
        ("sky", lexicon.MORE_SKIES),
        ("light", lexicon.LIGHTS),
    )
    for axis, values in add_all:
        for value, variants in values.items():
            add(axis, value, variants)
    for colour in axes.COLOURS:
        add("colour", colour, (colour,))
    for motion, phrase in lexicon.motion_phrases():
        add("motion", motion, (phrase,))
    add("camera mention", "", ("the camera", "camera"))
    return table


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can contain, sorted."""
    templates = [
        *(lexicon.OPENINGS + lexicon.JOINTS + lexicon.THEN),
        *lexicon.NUMBERS,
        "a an the is are that",
        *axes.COLOURS,
    ]
    tables: tuple[dict[str, tuple[str, ...]], ...] = (
        lexicon.MATERIALS, lexicon.SIZES, lexicon.RELATIONS, lexicon.CAMERAS, lexicon.GROUNDS, lexicon.SKIES,
        lexicon.LIGHTS,
    )  # fmt: skip
    templates += [variant for table in tables for variants in table.values() for variant in variants]
    templates += [phrase for _, phrase in lexicon.motion_phrases(is_written=True)]
    for names in lexicon.KINDS.values():
        templates += [*names, *map(lexicon.plural_noun, names)]
    return tuple(sorted({word for template in templates for word in re.findall("[a-z]+", template)}))


def _stems(word: str) -> Iterable[str]:
    """Yield the third person of a participle: rolling, driving, spinning, flying."""
    if word.endswith("ing") and len(word) > 5:
        stem = word[:-3]
        yield stem + "s"
        yield stem + "es"
        if stem[-1] == stem[-2]:
            yield stem[:-1] + "s"


@dataclass
class _Draft:
    """An object being described."""

    kind: str | None = None
    colour: str | None = None
    material: str | None = None
    size: str | None = None
    motions: list[MotionFact] = field(default_factory=list)

    def facts(self) -> ObjectFacts:
        motions = tuple(
            step for step in self.motions if step.target is not None or step.name not in axes.TARGET_MOTIONS
        )
        return ObjectFacts(kind=self.kind, colour=self.colour, material=self.material, size=self.size, motions=motions)


class _Reader:
    """Walks over the words of one caption; `subjects` are the objects that the next motion belongs to."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.objects: list[_Draft] = []
        self.relations: list[Relation] = []
        self.scene: dict[str, str] = {}
        self.unknown: dict[str, None] = {}
        self.subjects: list[int] = []
        self.last_mention: list[int] = []
        self.awaited: tuple[str, str] | None = None
        self._clear()

    def _clear(self) -> None:
        self.looks: dict[str, str] = {}
        self.count = 1
        self.is_definite = False
        self.has_article = False

    def read(self) -> None:
        place = 0
        while place < len(self.words):
            length, meaning = self._longest(place)
            if meaning is None:
                self._word(place)
            else:
                self._phrase(*meaning)
            place += length
        self._finish_looks()

    def _longest(self, place: int) -> tuple[int, tuple[str, str] | None]:
        table = _phrases()
        for length in range(min(6, len(self.words) - place), 0, -1):
            words = self.words[place : place + length]
            if tuple(words) in table:
                return length, table[tuple(words)]
            for stem in _stems(words[0]):
                if (stem, *words[1:]) in table:
                    self._note(words[0])
                    return length, table[(stem, *words[1:])]
        return 1, None

    def _note(self, word: str) -> None:
        if word not in vocabulary():
            self.unknown.setdefault(word)

    def _phrase(self, axis: str, value: str) -> None:
        if axis in ("material", "colour", "size"):
            self.looks.setdefault(axis, value)
        elif axis in ("kind", "kinds"):
            self._mention(value)
        elif axis == "motion":
            self._finish_looks()
            if value in axes.TARGET_MOTIONS:
                self.awaited = ("motion", value)
            else:
                self._add_motion(MotionFact(name=value))
        elif axis == "relation":
            self._finish_looks()
            self.awaited = ("relation", value)
        elif axis == "camera mention":
            self.subjects, self.awaited = [], None
            self._clear()
        else:
            self._finish_looks()
            self.scene.setdefault(axis, value)
            self._clear()

    def _word(self, place: int) -> None:
        word = self.words[place]
        if word == _END:
            self._finish_looks()
            self._clear()
            self.awaited = None
        elif word == "the":
            self._clear()
            self.is_definite = True
        elif word in _ARTICLES:
            self._clear()
            self.has_article = True
        elif word in lexicon.NUMBERS:
            self._clear()
            self.count = lexicon.NUMBERS[word]
        elif word in _COPULAS:
            self._finish_looks()
        elif word in ("that", "which"):
            self.subjects = self.last_mention or self.subjects
        elif word not in vocabulary() and word not in _GLUE:
            self._note(word)
            if (self.looks or self.has_article) and not self._names_follow(place + 1):
                self._mention(None)

    def _names_follow(self, place: int) -> bool:
        """Tell whether the name of a toy comes before anything else than looks and unknown words."""
        while place < len(self.words):
            length, meaning = self._longest(place)
            if meaning is None and (self.words[place] in vocabulary() or self.words[place] == _END):
                return False
            if meaning is not None and meaning[0] not in ("material", "colour", "size"):
                return meaning[0] in ("kind", "kinds")
            place += length
        return False

    def _mention(self, kind: str | None) -> None:
        looks = self.looks
        found = self._resolve(kind) if self.is_definite else None
        if found is None:
            found = list(range(len(self.objects), len(self.objects) + self.count))
            self.objects += [_Draft(kind=kind) for _ in found]
        for index in found:
            for axis, value in looks.items():
                setattr(self.objects[index], axis, value)
        self._clear()
        self.last_mention = found
        if self.awaited is None:
            self.subjects = found
            return
        (axis, name), self.awaited = self.awaited, None
        if not self.subjects or found[0] in self.subjects:
            return
        if axis == "relation":
            self.relations.append(Relation(name=name, subject=self.subjects[0], target=found[0]))
        else:
            self._add_motion(MotionFact(name=name, target=found[0]))

    def _resolve(self, kind: str | None) -> list[int] | None:
        """Find the object that "the ..." speaks of: the same kind, nothing said that contradicts."""
        for index, item in enumerate(self.objects):
            same = kind is None or item.kind == kind
            if same and all(getattr(item, axis) in (None, value) for axis, value in self.looks.items()):
                alike = [n for n, other in enumerate(self.objects) if other == item]
                return alike if len(alike) > 1 else [index]
        return None

    def _add_motion(self, step: MotionFact) -> None:
        for index in self.subjects:
            motions = self.objects[index].motions
            if not motions or motions[-1] != step:
                motions.append(step)

    def _finish_looks(self) -> None:
        """Give looks without a name ("the ball is red") to the subject."""
        if self.looks:
            for index in self.subjects:
                for axis, value in self.looks.items():
                    if getattr(self.objects[index], axis) is None:
                        setattr(self.objects[index], axis, value)
            self._clear()


def parse(caption: str) -> PartialScene:
    """Read a caption or a typed prompt into the facts it states.

    Example:
        >>> parse("on sand, a blue cube jumps").objects[0].motions[0].name
        'jumps'
    """
    reader = _Reader(re.findall(r"[^\W_]+|\.", caption.lower().replace("grey", "gray").replace("'", "")))
    reader.read()
    return PartialScene(
        objects=tuple(item.facts() for item in reader.objects),
        relations=tuple(reader.relations),
        camera=reader.scene.get("camera"),
        ground=reader.scene.get("ground"),
        sky=reader.scene.get("sky"),
        light=reader.scene.get("light"),
        unknown_words=tuple(reader.unknown),
    )
