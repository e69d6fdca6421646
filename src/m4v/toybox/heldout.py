"""Which combinations training never shows, decided by rule (toybox world, section 3)."""

from typing import Final

from m4v.core.errors import UserError
from m4v.toybox import axes
from m4v.toybox.tiers import Tier

SPLITS: Final = ("train", "iid", "attribute", "motion", "relation", "count", "paraphrase", "long")
"""train and iid share their rules and differ in their draws; paraphrase words captions in ways held out of training,
long has twice the frames, and each of the others puts a held-out cell of its name into every scene."""


def is_held_out_pair(kind: str, colour: str) -> bool:
    """Tell whether training never shows this object in this colour: (3 o + c) mod 11 = 2."""
    return (3 * axes.OBJECTS.index(kind) + axes.COLOURS.index(colour)) % 11 == 2


def is_held_out_motion(kind: str, motion: str) -> bool:
    """Tell whether training never shows this object in this motion: (2 o + 5 m) mod 13 = 7."""
    return (2 * axes.OBJECTS.index(kind) + 5 * axes.MOTIONS.index(motion)) % 13 == 7


def is_held_out_relation(relation: str, camera: str) -> bool:
    """Tell whether training never states this relation under this camera: one in seven, never the static camera."""
    return (axes.RELATIONS.index(relation) + axes.CAMERAS.index(camera)) % 7 == 5


def is_held_out_group(kind: str, count: int) -> bool:
    """Tell whether training never shows this many alike objects of this kind together: (o + n) mod 5 = 3, n > 1."""
    return count > 1 and (axes.OBJECTS.index(kind) + count) % 5 == 3


def check_split(split: str, tier: Tier) -> None:
    """Check that a tier has a split.

    Raises:
        UserError: If the split is unknown or the tier has no such combinations.
    """
    if split not in SPLITS:
        raise UserError(f"unknown toybox split {split!r}; choose one of: {', '.join(SPLITS)}")
    if split in ("relation", "count") and tier.max_objects == 1:
        raise UserError(f"the toybox tier {tier.name!r} has one object, so no {split!r} split; use the tier s or m")
