"""What a judge says about a clip."""

from dataclasses import dataclass

from m4v.toybox.oracles.movement import Movement


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """One object that the judge found.

    Attributes:
        colour: Entry of `axes.COLOURS`.
        object: Entry of `axes.OBJECTS`.
        motion: One of still, left, right, toward, away, jumps, seen from a resting camera; in tiers that have them also
            rises, falls, grows, shrinks.
        colour_confidence: Share of the votes of pixels, from 0 to 1.
        object_confidence: From 0 (like nothing in the world, or like two kinds alike) to 1.
        motion_confidence: From 0 (on the border of two answers) to 1.
        movement: Measured displacement.
        presence: Share of the frames in which the object was found.
        area: Usual share of the picture.
    """

    colour: str
    object: str
    motion: str
    colour_confidence: float
    object_confidence: float
    motion_confidence: float
    movement: Movement
    presence: float
    area: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The objects of a clip, most prominent first; the properties speak of the first and are None if there is none."""

    objects: tuple[FoundObject, ...]

    @property
    def count(self) -> int:
        """Number of objects found."""
        return len(self.objects)

    @property
    def colour(self) -> str | None:
        """Colour of the most prominent object."""
        return self.objects[0].colour if self.objects else None

    @property
    def object(self) -> str | None:
        """What the most prominent object is."""
        return self.objects[0].object if self.objects else None

    @property
    def motion(self) -> str | None:
        """Motion of the most prominent object."""
        return self.objects[0].motion if self.objects else None
