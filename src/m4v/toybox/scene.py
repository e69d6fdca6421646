"""Scenes as a pure function of (seed, index, tier, split), and scenes for what a person asks for."""

from typing import Final

import numpy as np

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.toybox.checks import violations
from m4v.toybox.completion import complete
from m4v.toybox.drawing import Drawer
from m4v.toybox.facts import PartialScene
from m4v.toybox.heldout import check_split
from m4v.toybox.placing import Placer
from m4v.toybox.records import MotionStep, Relation, Scene, SceneObject
from m4v.toybox.renderer import RENDERER_VERSION
from m4v.toybox.tiers import Tier, get_tier

__all__ = ["MotionStep", "Relation", "Scene", "SceneObject", "sample_scene", "scene_from_facts"]

_DRAWS: Final = 200
_PLACEMENTS_PER_DRAW: Final = 6
_PLACEMENTS_PER_REQUEST: Final = 80


def sample_scene(seed: int, index: int, tier: str | Tier, split: str = "train") -> Scene:
    """Draw scene number `index`; redrawn until everything that can be said about it shows.

    Raises:
        UserError: If the tier or split is unknown, or the index is negative.
    """
    tier = get_tier(tier) if isinstance(tier, str) else tier
    check_split(split, tier)
    if index < 0:
        raise UserError(f"scene index is {index}; use 0 or more")
    num_frames = 2 * tier.num_frames - 1 if split == "long" else tier.num_frames
    scene_seed = fold_seed(seed, "toybox", RENDERER_VERSION, tier.name, split, index)
    rng = np.random.Generator(np.random.Philox(key=scene_seed))
    drawer = Drawer(rng, tier, split)
    # Drawn once: crowded scenes fail more often, and redrawing the count would make them rare.
    count = drawer.count()
    for _ in range(_DRAWS):
        facts = drawer.facts(count)
        for _ in range(_PLACEMENTS_PER_DRAW):
            scene = Placer(rng, tier).scene(facts, num_frames, scene_seed)
            if not violations(scene, tier):
                return scene
    raise AssertionError(f"no scene of tier {tier.name}, split {split} passes the checks")


def scene_from_facts(facts: PartialScene, seed: int, tier: str | Tier, num_frames: int | None = None) -> Scene:
    """Build a scene that shows the stated facts, for example those of a prompt; what is unsaid is drawn.

    Facts outside the tier's axes are drawn all the same. Of many placements the first without violations is taken,
    else the one with fewest.

    Raises:
        UserError: If the tier is unknown or there are more than 8 objects.
    """
    tier = get_tier(tier) if isinstance(tier, str) else tier
    rng = np.random.Generator(np.random.Philox(key=fold_seed(seed, "toybox prompt", tier.name)))
    whole = complete(facts, rng, tier)
    best: tuple[int, Scene] | None = None
    for _ in range(_PLACEMENTS_PER_REQUEST):
        scene = Placer(rng, tier).scene(whole, num_frames or tier.num_frames, seed)
        missing = len(violations(scene, tier))
        if best is None or missing < best[0]:
            best = (missing, scene)
        if missing == 0:
            break
    assert best is not None
    return best[1]
