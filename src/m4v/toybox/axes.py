"""The values of every axis of the toybox world; positions in these tuples are the indices that the split rules use."""

from typing import Final

OBJECTS: Final = (
    "ball", "cube", "cylinder", "cone", "car", "truck", "tree", "house",
    "snowman", "duck", "robot", "rocket", "boat", "lighthouse", "mushroom",
)  # fmt: skip
COLOURS: Final = (
    "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "black",
)  # fmt: skip
MATERIALS: Final = ("matte", "shiny", "metal", "striped", "checkered")
SIZES: Final = ("small", "medium", "large")
MOTIONS: Final = (
    "still", "left", "right", "toward", "away", "bounces", "spins", "circles",
    "jumps", "falls", "rises", "sways", "grows", "shrinks", "chases", "bumps",
)  # fmt: skip
RELATIONS: Final = ("left of", "right of", "in front of", "behind", "on top of")
CAMERAS: Final = ("static", "pans left", "pans right", "orbits", "moves closer", "pulls back", "rises")
GROUNDS: Final = ("checkered floor", "grass", "wood", "sand", "snow", "stone", "still water")
SKIES: Final = ("clear day", "sunset", "night", "overcast", "studio")
LIGHTS: Final = ("left", "right")

TRAVEL_MOTIONS: Final = ("left", "right", "toward", "away")
TARGET_MOTIONS: Final = ("circles", "chases", "bumps")
UPRIGHT_MOTIONS: Final = ("still", "bounces", "spins", "jumps", "sways", "grows", "shrinks")
"""Motions that leave an object above the place it stands on, hence possible on top of another object."""
