"""The judge of toybox clips: finds the objects, follows them, and compares them with templates (toybox world, 4)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from m4v.core.errors import UserError
from m4v.toybox.oracles.movement import movement
from m4v.toybox.oracles.segmentation import Segmentation, segment, to_working_size
from m4v.toybox.oracles.shapes import describe
from m4v.toybox.oracles.tracks import Track, follow
from m4v.toybox.oracles.verdict import FoundObject, Verdict
from m4v.toybox.oracles.world_knowledge import WorldKnowledge, world_knowledge

_MAX_VIEWS: Final = 9
"""Frames in which the shape is compared."""

_NEIGHBOURS: Final = 3
_MIN_PRESENCE: Final = 0.34
_MIN_RELATIVE_AREA: Final = 0.12
_MIN_CONFIDENCE: Final = 0.05
_SHADES: Final = {"brown": ("orange", "red")}
"""Colours that look like another in its shade."""

_MIN_PAINT: Final = 0.15
_PAINT_BONUS: Final = 0.1
_SHARPNESS: Final = 0.12
"""Difference of two distances, relative to the smaller one, that makes the nearer kind e times as likely."""

_STRANGE: Final = 0.75
"""Distance, relative to the energy of the blob's description, at which it looks like nothing in the world."""


def judge(frames: UInt8[np.ndarray, "t h w 3"], tier: str = "xs") -> Verdict:
    """Say what a clip shows. The judge never sees the prompt.

    Args:
        frames: Any size; judged at 64 px.
        tier: World whose objects, colours and sights the judge knows.

    Raises:
        UserError: If the clip is not uint8 `t h w 3` or there is no such tier.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UserError(f"cannot judge an array of {frames.dtype} {frames.shape}; expected uint8 (frames, h, w, 3)")
    world = world_knowledge(tier)
    small = to_working_size(frames)
    seg = segment(small, world.palette_under(small), has_fixed_camera=world.tier.cameras == ("static",))
    tracks = [track for track in follow(seg) if track.presence >= _MIN_PRESENCE]
    if tracks:
        floor = _MIN_RELATIVE_AREA * max(track.area for track in tracks)
        tracks = [track for track in tracks if track.area >= floor]
    found = (_found(seg, track, world) for track in tracks)
    return Verdict(objects=tuple(item for item in found if item.object_confidence >= _MIN_CONFIDENCE))


def _found(seg: Segmentation, track: Track, world: WorldKnowledge) -> FoundObject:
    """Try the colours that cover much of the object as its paint; the one whose shape looks most familiar is right."""
    votes = np.sum([blob.votes for blob in track.blobs], axis=0)
    candidates = [int(colour) for colour in np.flatnonzero(votes >= max(_MIN_PAINT * votes.sum(), 1.0))]
    candidates = [colour for colour in candidates if not _is_shade(colour, votes, world)]
    matches = [_match(seg, track, world, colour) for colour in candidates]
    # A colour that covers little is more likely a fitting.
    rated = [
        match.distance - _PAINT_BONUS * votes[colour] / votes.sum()
        for match, colour in zip(matches, candidates, strict=True)
    ]
    chosen = int(np.argmin(rated))
    match, colour = matches[chosen], candidates[chosen]
    moved = movement(track, world.horizon_row)
    best = int(match.shares.argmax())
    return FoundObject(
        colour=world.colour_names[colour],
        object=world.kind_names[best],
        motion=moved.named(world.tier.motions),
        colour_confidence=float(votes[colour] / votes.sum()),
        object_confidence=float(match.shares[best]) * max(1.0 - match.distance / _STRANGE, 0.0),
        motion_confidence=moved.confidence,
        movement=moved,
        presence=track.presence,
        area=track.area / seg.deviation[0].size,
    )


def _is_shade(colour: int, votes: Int[np.ndarray, "c"], world: WorldKnowledge) -> bool:
    """Tell whether pixels of a dark colour are rather the shaded side of a lighter one, which is as frequent."""
    brighter = _SHADES.get(world.colour_names[colour], ())
    return any(votes[world.colour_names.index(name)] > 0.5 * votes[colour] for name in brighter)


@dataclass(frozen=True, kw_only=True)
class _Match:
    """Comparison of an object with the templates: probability of every kind, and distance to the nearest."""

    shares: Float[np.ndarray, "k"]
    distance: float


def _match(seg: Segmentation, track: Track, world: WorldKnowledge, colour: int) -> _Match:
    """Compare several views, with one colour taken as the paint."""
    blobs = [blob for blob in track.clear_blobs(3) if blob.votes[colour]]
    blobs = blobs or [blob for blob in track.blobs if blob.votes[colour]]
    chosen = np.unique(np.linspace(0, len(blobs) - 1, min(len(blobs), _MAX_VIEWS)).round().astype(int))
    views = np.stack([describe(seg, blobs[index], colour) for index in chosen])
    energy = (views**2).sum(axis=1)
    squares = energy[:, None] + world.template_energy - 2.0 * views @ world.templates.T
    relative = np.maximum(squares, 0.0) / np.maximum(energy, 1e-6)[:, None]
    nearest = np.stack(
        [
            np.partition(relative[:, world.kinds == kind], _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS].mean(axis=1)
            for kind in range(len(world.kind_names))
        ],
        axis=1,
    )
    # The median over views: a few odd frames do not decide.
    distance = np.median(nearest, axis=0)
    least = float(distance.min())
    likelihood = np.exp(-(distance - least) / (_SHARPNESS * max(least, 0.02)))
    return _Match(shares=likelihood / likelihood.sum(), distance=least)
