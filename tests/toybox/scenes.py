"""Hand-made scenes for tests of the toybox."""

from m4v.toybox.records import MotionStep, Relation, Scene, SceneObject


def make_object(
    kind: str = "ball",
    *,
    motions: tuple[MotionStep, ...] = (MotionStep(name="still"),),
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    colour: str = "red",
    material: str = "matte",
    yaw: float = 0.0,
    scale: float = 1.0,
) -> SceneObject:
    """Return an object with ordinary values where none are given."""
    return SceneObject(
        kind=kind,
        colour=colour,
        material=material,
        size="medium",
        motions=motions,
        position=position,
        yaw=yaw,
        scale=scale,
    )


def make_scene(
    *objects: SceneObject,
    relations: tuple[Relation, ...] = (),
    camera: str = "static",
    ground: str = "sand",
    sky: str = "clear day",
    light: str = "left",
    tier: str = "xs",
) -> Scene:
    """Return a scene of 17 frames with ordinary values where none are given."""
    return Scene(
        tier=tier,
        num_frames=17,
        fps=8,
        objects=objects,
        relations=relations,
        camera=camera,
        camera_amount=0.36,
        camera_distance=4.3,
        ground=ground,
        sky=sky,
        sky_tint=0,
        light=light,
        sun_height=0.98,
        backdrop=(0.0, 0.0, 0.0),
        clouds=0.0,
        seed=0,
    )
