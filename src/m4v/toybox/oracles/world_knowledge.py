"""What the judges know of the world of a tier, measured on renders made for the purpose and kept in memory."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from m4v.toybox import palette
from m4v.toybox.camera import camera_track
from m4v.toybox.oracles.segmentation import WORKING_SIZE, segment, smoothed_lab
from m4v.toybox.oracles.shapes import describe
from m4v.toybox.records import MotionStep, Scene, SceneObject
from m4v.toybox.renderer import render
from m4v.toybox.tiers import Tier, get_tier

_KEY: Final = 7919
_VIEWS: Final = 160
"""Templates per object kind and material."""

_HARD_TO_SEE: Final = frozenset({("green", "grass"), ("yellow", "sand")})
_SKY: Final = "clear day"
"""Sky of the templates; descriptions do not depend on it."""

_SKY_ROWS: Final = 6


@dataclass(frozen=True, kw_only=True)
class WorldKnowledge:
    """Palette and shape templates of a tier.

    Attributes:
        colours: Lightness and shading-free chroma of every palette colour under every sky.
        colour_names: Palette of the tier.
        skies: Lightness and shading-free chroma of pieces of sky, and the index of the sky of each.
        templates: Shape descriptions.
        template_energy: Sum of squares of every description.
        kinds: Index into `kind_names` of every template.
        horizon_row: Where the horizon lies in a picture of working size.
    """

    tier: Tier
    colours: Float[np.ndarray, "s c 3"]
    colour_names: tuple[str, ...]
    skies: tuple[Float[np.ndarray, "p 3"], Int[np.ndarray, "p"]]
    templates: Float[np.ndarray, "m n"]
    template_energy: Float[np.ndarray, "m"]
    kinds: Int[np.ndarray, "m"]
    kind_names: tuple[str, ...]
    horizon_row: float

    def palette_under(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "c 3"]:
        """Return the palette in the light of a clip, told from its sky."""
        pieces, indices = self.skies
        seen = _sky_piece(frames)
        return self.colours[indices[((pieces - seen) ** 2).sum(axis=1).argmin()]]


@cache
def world_knowledge(tier_name: str) -> WorldKnowledge:
    """Render the palette and the templates of a tier; about two seconds for "xs", once per process.

    Raises:
        UserError: If there is no such tier.
    """
    tier = get_tier(tier_name)
    colours = np.array([[_prototype(tier, name, sky) for name in tier.colours] for sky in tier.skies], dtype=np.float32)
    templates, kinds = [], []
    for number, kind in enumerate(tier.objects):
        found = _templates(tier, kind, number, colours[tier.skies.index(_SKY)])
        templates.append(found)
        kinds.append(np.full(len(found), number))
    described = np.concatenate(templates)
    return WorldKnowledge(
        tier=tier,
        colours=colours,
        colour_names=tier.colours,
        skies=_skies(tier),
        templates=described,
        template_energy=(described**2).sum(axis=1),
        kinds=np.concatenate(kinds),
        kind_names=tier.objects,
        horizon_row=_horizon_row(tier),
    )


def _horizon_row(tier: Tier) -> float:
    item = _item(tier, "ball", tier.colours[0], (0.0, 0.0, 0.0), 0.0)
    camera = camera_track(_scene(tier, item, ground="stone", sky="clear day", light="left", sun_height=0.8), 1)
    far = camera.eye[:, None] + np.array([[[0.0, 1.0, 0.0]]])
    return float(0.5 * WORKING_SIZE * (1.0 + camera.project(far)[0][0, 0, 1]) - 0.5)


def _scene(tier: Tier, item: SceneObject, *, ground: str, sky: str, light: str, sun_height: float) -> Scene:
    return Scene(
        tier=tier.name,
        num_frames=1,
        fps=tier.fps,
        objects=(item,),
        relations=(),
        camera="static",
        camera_amount=0.0,
        camera_distance=tier.camera_distance,
        ground=ground,
        sky=sky,
        sky_tint=0,
        light=light,
        sun_height=sun_height,
        backdrop=(0.0, 0.0, 0.0),
        clouds=0.0,
        seed=0,
    )


def _item(tier: Tier, kind: str, colour: str, position: tuple[float, float, float], yaw: float) -> SceneObject:
    return SceneObject(
        kind=kind,
        colour=colour,
        material="matte",
        size="medium",
        motions=(MotionStep(name="still"),),
        position=position,
        yaw=yaw,
        scale=tier.object_scale,
    )


def _skies(tier: Tier) -> tuple[Float[np.ndarray, "p 3"], Int[np.ndarray, "p"]]:
    """Return samples of every sky, over several clouds and tints where the tier has them."""
    pieces, indices = [], []
    item = _item(tier, "ball", tier.colours[0], (0.0, 0.0, 0.0), 0.0)
    for number, sky in enumerate(tier.skies):
        for variant in range(5 if tier.has_varied_backdrop else 1):
            for light in ("left", "right"):
                scene = _scene(tier, item, ground="stone", sky=sky, light=light, sun_height=0.9)
                scene = replace(scene, sky_tint=variant, backdrop=(0.0, 0.0, 7.0 * variant), clouds=0.2 * variant)
                pieces.append(_sky_piece(render(scene, size=WORKING_SIZE, num_frames=1).frames))
                indices.append(number)
    return np.stack(pieces), np.array(indices)


def _sky_piece(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "3"]:
    """Return the usual colour of the uppermost rows."""
    return np.median(smoothed_lab(frames[:1, :_SKY_ROWS])[0], axis=(0, 1))


def _prototype(tier: Tier, colour: str, sky: str) -> Float[np.ndarray, "3"]:
    """Return the usual colour of the inner pixels of a ball and a cube."""
    found = []
    for kind in ("ball", "cube"):
        for light in ("left", "right"):
            item = _item(tier, kind, colour, (0.0, 0.0, 0.0), 0.5)
            scene = _scene(tier, item, ground="stone", sky=sky, light=light, sun_height=0.8)
            picture = render(scene, size=WORKING_SIZE, num_frames=1)
            mask = picture.object_ids[0] == 1
            inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
            found.append(smoothed_lab(picture.frames)[0][inner])
    return np.median(np.concatenate(found), axis=0)


def _templates(tier: Tier, kind: str, number: int, colours: Float[np.ndarray, "c 3"]) -> Float[np.ndarray, "m n"]:
    rng = np.random.Generator(np.random.Philox(key=_KEY + number))
    described = []
    for first in range(0, _VIEWS, 20):
        # Twenty views share a ground, so that they can be segmented as one clip.
        ground = tier.grounds[first // 20 % len(tier.grounds)]
        choices = [name for name in tier.colours if (name, ground) not in palette.CLASHES | _HARD_TO_SEE]
        names = [choices[(first + place) % len(choices)] for place in range(20)]
        painted = [tier.colours.index(name) for name in names]
        frames = np.concatenate([_view(tier, kind, name, ground, rng) for name in names])
        seg = segment(frames, colours, has_fixed_camera=True)
        described += [
            describe(seg, blobs[0], colour)
            for blobs, colour in zip(seg.blobs, painted, strict=True)
            if blobs and blobs[0].votes[colour] and not blobs[0].touches_border
        ]
    return np.stack(described)


def _view(tier: Tier, kind: str, colour: str, ground: str, rng: np.random.Generator) -> np.ndarray:
    height = float(rng.uniform(0.1, 1.2)) if rng.random() < 0.3 else 0.0
    place = (float(rng.uniform(-1.4, 1.4)), float(rng.uniform(-1.0, 2.4)), height)
    item = _item(tier, kind, colour, place, float(rng.uniform(-np.pi, np.pi)))
    light, sun_height = str(rng.choice(["left", "right"])), float(rng.uniform(0.80, 1.10))
    scene = _scene(tier, item, ground=ground, sky=_SKY, light=light, sun_height=sun_height)
    return render(scene, size=WORKING_SIZE, num_frames=1).frames
