"""The three sizes of the toybox world; a tier limits every axis and fixes the picture (toybox world, section 2)."""

from dataclasses import dataclass

from m4v.core.errors import UserError
from m4v.toybox import axes


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One size of the world.

    Attributes:
        size: Height and width in pixels.
        fps: Frames per second.
        count_weights: Probability of 1, 2, ... objects.
        two_step_share: Probability that an object does one thing, then another.
        camera_weights: Probability of each entry of `cameras`.
        object_scale: World size of an unsaid-size object relative to its model (about 1.5 units tall).
        camera_distance: Horizontal distance of the camera to the middle of the scene, in world units.
        has_varied_backdrop: Clouds and ground textures differ from clip to clip.
        least_visible: Part of every object that shows in every frame.
    """

    name: str
    size: int
    num_frames: int
    fps: int
    objects: tuple[str, ...]
    colours: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    count_weights: tuple[float, ...]
    motions: tuple[str, ...]
    two_step_share: float
    relations: tuple[str, ...]
    cameras: tuple[str, ...]
    camera_weights: tuple[float, ...]
    grounds: tuple[str, ...]
    skies: tuple[str, ...]
    object_scale: float
    camera_distance: float
    has_varied_backdrop: bool
    least_visible: float

    @property
    def max_objects(self) -> int:
        """Largest number of objects in a scene."""
        return len(self.count_weights)


_EXTRA_SMALL = Tier(
    name="xs",
    size=64,
    num_frames=17,
    fps=8,
    objects=("ball", "cube", "cylinder", "cone", "car", "tree"),
    colours=("red", "orange", "yellow", "green", "blue", "purple"),
    materials=("matte",),
    sizes=("medium",),
    count_weights=(1.0,),
    motions=("still", "left", "right", "toward", "away", "jumps"),
    two_step_share=0.0,
    relations=(),
    cameras=("static",),
    camera_weights=(1.0,),
    grounds=("grass", "sand", "snow", "stone"),
    skies=("clear day",),
    object_scale=1.0,
    camera_distance=4.3,
    has_varied_backdrop=False,
    least_visible=0.85,
)


def _whole_world(
    name: str, *, size: int, num_frames: int, fps: int, count_weights: tuple[float, ...], two_step_share: float
) -> Tier:
    return Tier(
        name=name,
        size=size,
        num_frames=num_frames,
        fps=fps,
        objects=axes.OBJECTS,
        colours=axes.COLOURS,
        materials=axes.MATERIALS,
        sizes=axes.SIZES,
        count_weights=count_weights,
        motions=axes.MOTIONS,
        two_step_share=two_step_share,
        relations=axes.RELATIONS,
        cameras=axes.CAMERAS,
        camera_weights=(0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
        grounds=axes.GROUNDS,
        skies=axes.SKIES,
        object_scale=0.92,
        camera_distance=5.2,
        has_varied_backdrop=True,
        least_visible=0.0,
    )


TIERS: dict[str, Tier] = {
    "xs": _EXTRA_SMALL,
    "s": _whole_world("s", size=64, num_frames=17, fps=8, count_weights=(0.55, 0.45), two_step_share=0.0),
    "m": _whole_world("m", size=128, num_frames=33, fps=12, count_weights=(0.45, 0.35, 0.2), two_step_share=0.15),
}


def get_tier(name: str) -> Tier:
    """Return the tier called `name`.

    Raises:
        UserError: If there is no such tier.
    """
    if name not in TIERS:
        raise UserError(f"unknown toybox tier {name!r}; choose one of: {', '.join(TIERS)}")
    return TIERS[name]
