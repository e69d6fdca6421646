"""Captioned clips with exact labels: a pure function of (tier, split, seed, index) and the renderer version."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m4v.core.seeds import fold_seed
from m4v.toybox.camera import TAN_HALF_VIEW
from m4v.toybox.captions import Captions, write_captions
from m4v.toybox.records import Scene
from m4v.toybox.renderer import RENDERER_VERSION, Render, render
from m4v.toybox.scene import sample_scene


@dataclass(frozen=True, kw_only=True)
class ToyboxClip:
    """A rendered clip.

    Attributes:
        labels: JSON types: split, seed, index, renderer version, record, and per frame the poses, boxes, visible
            shares and cameras.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: int
    scene: Scene
    captions: Captions
    labels: dict[str, Any]


def make_clip(tier: str, split: str, seed: int, index: int) -> ToyboxClip:
    """Draw, render, describe and label clip number `index`.

    Safe to call from several threads at once; rendering holds no interpreter lock.

    Raises:
        UserError: If the tier or split is unknown, or the index is negative.

    Example:
        >>> clip = make_clip("xs", "train", seed=0, index=0)
        >>> clip.frames.shape
        (17, 64, 64, 3)
    """
    scene = sample_scene(seed, index, tier, split)
    rendered = render(scene)
    captions = write_captions(
        scene, fold_seed(seed, "captions", tier, split, index), is_paraphrase=split == "paraphrase"
    )
    labels = {"tier": tier, "split": split, "seed": seed, "index": index, **labels_of(scene, rendered)}
    return ToyboxClip(frames=rendered.frames, fps=scene.fps, scene=scene, captions=captions, labels=labels)


def labels_of(scene: Scene, rendered: Render) -> dict[str, Any]:
    """Return the truth about a rendered scene as JSON types."""
    poses, camera = rendered.poses, rendered.camera
    return {
        "renderer_version": RENDERER_VERSION,
        "scene": scene.to_json(),
        "objects": [
            {
                "position": _rounded(poses.position[:, index]),
                "rotation": _rounded(poses.rotation[:, index]),
                "scale": _rounded(poses.scale[:, index]),
                "centre": _rounded(poses.centre[:, index]),
                "box": rendered.boxes[:, index].astype(int).tolist(),
                "visible_share": _rounded(rendered.visible_share[:, index]),
            }
            for index in range(len(scene.objects))
        ],
        "camera": {
            "eye": _rounded(camera.eye),
            "right": _rounded(camera.right),
            "up": _rounded(camera.up),
            "forward": _rounded(camera.forward),
            "tan_half_view": TAN_HALF_VIEW,
        },
    }


def _rounded(values: np.ndarray) -> Any:
    return np.round(values, 5).tolist()
