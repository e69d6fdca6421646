"""The words of the toybox: every way to say every fact, shared by the writer and the reader of captions.

The last variant of each entry is held out of training (split "paraphrase"); it uses only words that other training
variants use too. `{move}` stands for the verb of the toy (rolls, drives or slides).
"""

from collections.abc import Iterator
from typing import Final

from m4v.toybox import axes

KINDS: Final[dict[str, tuple[str, ...]]] = {kind: (kind,) for kind in axes.OBJECTS} | {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "box"),
    "boat": ("boat", "ship"),
}
MATERIALS: Final[dict[str, tuple[str, ...]]] = {
    "matte": ("matte", "dull"),
    "shiny": ("shiny", "glossy"),
    "metal": ("metal", "metallic"),
    "striped": ("striped",),
    "checkered": ("checkered",),
}
SIZES: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
NUMBERS: Final = {"two": 2, "three": 3}

MOVE_VERBS: Final = {"roll": "rolls", "drive": "drives", "slide": "slides"}

MOTIONS: Final[dict[str, tuple[str, ...]]] = {
    "still": ("stays still", "stands still", "does not move", "stays in place", "stands in place"),
    "left": ("{move} to the left", "{move} left", "moves to the left", "moves left", "{move} toward the left"),
    "right": ("{move} to the right", "{move} right", "moves to the right", "moves right", "{move} toward the right"),
    "toward": (
        "{move} toward the camera", "comes closer", "moves toward the camera", "{move} toward us", "moves closer to us",
    ),
    "away": ("{move} away", "{move} away from the camera", "moves away", "goes away", "{move} away from us"),
    "bounces": ("bounces", "bounces up and down", "keeps bouncing", "bounces into the air"),
    "spins": ("spins", "spins around", "rotates", "rotates around"),
    "circles": ("circles around {target}", "goes around {target}", "moves around {target}", "circles {target}"),
    "jumps": ("jumps", "jumps up and down", "hops", "jumps into the air", "hops up and down"),
    "falls": ("falls from the sky", "falls down", "drops from the sky", "drops down"),
    "rises": ("rises", "rises into the air", "floats up", "floats into the air"),
    "sways": ("sways", "sways from side to side", "rocks from side to side", "rocks"),
    "grows": ("grows", "gets bigger", "gets larger", "becomes bigger", "grows larger"),
    "shrinks": ("shrinks", "gets smaller", "shrinks down", "becomes smaller"),
    "chases": ("chases {target}", "follows {target}", "runs after {target}", "goes after {target}"),
    "bumps": ("bumps into {target}", "crashes into {target}", "bumps against {target}", "crashes against {target}"),
}  # fmt: skip
MORE_MOTIONS: Final[dict[str, tuple[str, ...]]] = {
    "still": ("is still", "stands", "stays"),
    "toward": ("comes toward us", "comes closer to us", "moves closer", "gets closer", "closer", "toward us"),
    "away": ("away",),
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "spins": ("turns around",),
    "falls": ("falls", "drops"),
    "bumps": ("hits {target}", "crashes"),
}
"""Forms that are read but never written."""

RELATIONS: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "in front of": ("in front of", "at the front of"),
    "behind": ("behind", "in back of"),
    "on top of": ("on top of", "on the top of"),
}
CAMERAS: Final[dict[str, tuple[str, ...]]] = {
    "static": ("the camera does not move", "the camera stays still", "the camera stands still"),
    "pans left": (
        "the camera pans left", "the camera pans to the left", "the camera turns left", "the camera turns to the left",
    ),
    "pans right": (
        "the camera pans right", "the camera pans to the right", "the camera turns right",
        "the camera turns to the right",
    ),
    "orbits": ("the camera orbits", "the camera circles around", "the camera moves around", "the camera goes around"),
    "moves closer": ("the camera moves closer", "the camera comes closer", "the camera gets closer"),
    "pulls back": ("the camera pulls back", "the camera moves back", "the camera moves away", "the camera goes back"),
    "rises": ("the camera rises", "the camera moves up", "the camera floats up", "the camera goes up"),
}  # fmt: skip
GROUNDS: Final[dict[str, tuple[str, ...]]] = {
    "checkered floor": ("on a checkered floor", "on the checkered floor", "on a chessboard", "on the chessboard"),
    "grass": ("on the grass", "on grass", "on a lawn", "on the lawn"),
    "wood": ("on a wooden floor", "on the wooden floor", "on wood", "on the wood"),
    "sand": ("on the sand", "on sand", "on a beach", "on the beach"),
    "snow": ("on the snow", "on snow", "in the snow", "in snow"),
    "stone": ("on the stone", "on stone", "on a stone floor", "on the stone floor"),
    "still water": ("on still water", "on the water", "on a lake", "on the lake"),
}
MORE_GROUNDS: Final[dict[str, tuple[str, ...]]] = {
    "checkered floor": ("checkered floor", "chessboard"),
    "grass": ("grass", "lawn"),
    "wood": ("wood", "wooden", "wooden floor"),
    "sand": ("sand", "beach"),
    "snow": ("snow",),
    "stone": ("stone", "stone floor"),
    "still water": ("water", "still water", "lake"),
}
SKIES: Final[dict[str, tuple[str, ...]]] = {
    "clear day": ("on a sunny day", "on a clear day", "under a clear sky", "under a sunny sky"),
    "sunset": ("at sunset", "in the evening", "under a sunset sky", "under an evening sky"),
    "night": ("at night", "in the moonlight", "under the moon", "under the night sky"),
    "overcast": ("on a cloudy day", "under a cloudy sky", "on a gray day", "under a gray sky"),
    "studio": ("in a studio", "in a plain studio", "in the studio"),
}
MORE_SKIES: Final[dict[str, tuple[str, ...]]] = {
    "clear day": ("sunny", "clear sky", "clear day"),
    "sunset": ("sunset", "evening"),
    "night": ("night", "moonlight", "moon"),
    "overcast": ("cloudy",),
    "studio": ("studio",),
}
LIGHTS: Final[dict[str, tuple[str, ...]]] = {
    side: (
        f"with light from the {side}",
        f"lit from the {side}",
        f"with light on the {side}",
        f"with the light from the {side}",
    )
    for side in axes.LIGHTS
}
OPENINGS: Final = ("", "there is ", "a video of ", "a video with ")
"""Words before the first object; all but the empty one need "that" before its motion."""
JOINTS: Final = (". ", " and ", ", while ")
THEN: Final = (", then ", " and then ", " then ")


def plural_noun(word: str) -> str:
    """Return the plural of a toy's name."""
    return {"box": "boxes", "snowman": "snowmen"}.get(word, word + "s")


def plural_verb(phrase: str) -> str:
    """Return a motion phrase for several subjects: its first word without the ending of the third person."""
    verb, *rest = phrase.split(" ")
    plural = {"is": "are", "does": "do", "goes": "go", "crashes": "crash"}.get(verb) or verb.removesuffix("s")
    return " ".join([plural, *rest])


def motion_phrases(*, is_written: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (motion, phrase) for every readable (or only every written) form, up to where a target follows."""
    for table in (MOTIONS,) if is_written else (MOTIONS, MORE_MOTIONS):
        for motion, variants in table.items():
            for variant in variants:
                for verb in MOVE_VERBS.values() if "{move}" in variant else ("",):
                    phrase = variant.format(move=verb, target="").strip()
                    yield motion, phrase
                    yield motion, plural_verb(phrase)
